"""What a model's configuration says of its activations, so that it is saved as what it computes."""

from __future__ import annotations

import sys
import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ReLU

from ...errors import require
from ...settings import NonNegative, checked
from .feed_forward import feed_forward


class FATReLU(Module):
    """x where x >= threshold, else exactly 0.

    Args:
        threshold: 0 is ReLU. In units of the pre-activation.
    """

    @checked
    def __init__(self, threshold: NonNegative = 0.0) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Activations of x, of its shape."""
        return torch.where(x >= self.threshold, x, torch.zeros_like(x))


@checked
def register_fatrelu(threshold: NonNegative) -> str:
    """Let transformers read models whose feed-forwards use FATReLU with this threshold.

    A model of ProSparse with a threshold above 0 names its activation as this returns it, in its config.json.
    transformers does not know the name and refuses the folder, until this was called in the process that reads it.

    Args:
        threshold: as the model was made with.

    Returns:
        The name, "fatrelu(0.01)" for 0.01; "relu", which needs no registering, for 0.
    """
    if threshold > 0:
        known: Any = require(
            "transformers", extra="vision", purpose="reading a transformers folder"
        ).activations.ACT2FN
        known[_name(threshold)] = (FATReLU, {"threshold": threshold})
    return _name(threshold)


def describe_(model: Module, threshold: float) -> None:
    """Write FATReLU's name into the field of the model's configuration that makes its feed-forwards' activations.

    The field is the one that makes them ReLU when it says "relu". Models without a configuration stay as they are; of
    one whose configuration has no such field, a warning says that its saving cannot be trusted.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict") or not hasattr(model, "save_pretrained"):
        return
    known = sys.modules["transformers"].activations.ACT2FN
    for field, value in config.to_dict().items():
        named = isinstance(value, str) and (value in known or value.startswith("fatrelu("))
        if named and _makes_relu(model, config, field):
            setattr(config, field, _name(threshold))
            return
    warnings.warn(
        f"no field of {type(config).__name__} names the activation of the feed-forwards, so save_pretrained loses "
        "FATReLU. Save the weights with unweave's save_model, and call set_threshold_ on the model that reads them.",
        stacklevel=3,
    )


def _makes_relu(model: Module, config: Any, field: str) -> bool:
    tried, kind = deepcopy(config), type(model)
    setattr(tried, field, "relu")
    try:
        with torch.device("meta"):
            made: Module = kind(tried)
    except Exception:  # whatever a model raises at a configuration that it does not take
        return False
    acts = [found.activation for m in made.modules() if (found := feed_forward(m)) is not None]
    return bool(acts) and all(isinstance(act, ReLU) for act in acts)


def _name(threshold: float) -> str:
    return f"fatrelu({threshold})" if threshold else "relu"
