"""Unlearning under the unchanged mask: what un-pruning is compared with.

The usual treatment of a sparse model (Jia, Liu et al., 2023, "Model Sparsity Can Simplify Machine
Unlearning", arXiv 2304.04934, section 4): zeros are held where they are. The topology then stays that of the
model that saw the deleted examples.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Generator
from torch.nn import Module

from ..paper import Paper
from ..settings import settings
from ..types import Edit, Request
from ._topology_edit import sparse_mask
from ._train import check_request
from .suits import UNJUDGED, Unsuited


@settings
class FixedMask:
    """Unlearn with every pruned position held at zero, whatever the unlearner writes there.

    Attributes:
        unlearn: the unlearner.
    """

    unlearn: Edit[Request[Any]]

    paper: ClassVar[Paper] = Paper(
        "Model Sparsity Can Simplify Machine Unlearning", "Jia, Liu et al.", "NeurIPS", 2023, "2304.04934"
    )
    unsuited: ClassVar[Unsuited] = {"small": UNJUDGED}

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return an unlearned copy of `model` with the same zeros.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the model is dense: there is no mask to hold.
        """
        check_request("FixedMask", data, rng)
        mask = sparse_mask("FixedMask", model)
        return mask.apply_(self.unlearn.apply(model, data, rng=rng))
