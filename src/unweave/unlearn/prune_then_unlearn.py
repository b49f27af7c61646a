"""Prune first, then unlearn: the fewer weights there are, the nearer a cheap unlearner comes to retraining.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023,
arXiv 2304.04934, section 3: prune the model (95 % of its weights, by magnitude) on all of the training data,
then run any unlearner with the mask held fixed. Proposition 2 bounds the error of gradient-ascent unlearning
by a quantity that shrinks with the mask; it is no certificate.

Departures. The paper prunes before any request arrives. Here both happen in one call, and as the pruner reads
the forget set, the mask may still tell of it: un-pruning is the method that answers for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..fit.batches import joined
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child
from ..settings import settings
from ..types import Data, Edit, Request
from ._train import check_request
from .fine_tune import FineTune
from .suits import UNJUDGED, Unsuited


@settings
class PruneThenUnlearn:
    """Prune on all of the data, then forget under the mask.

    Attributes:
        prune: removes weights by setting them to zero, and trains on under the mask if it can (GMP or IMP,
            say).
        unlearn: forgets; every unlearner of this family that edits a model in place of making a new one keeps
            the zeros.
    """

    prune: Edit[Data[Any]]
    unlearn: Edit[Request[Any]] = FineTune()

    paper: ClassVar[Paper] = Paper(
        "Model Sparsity Can Simplify Machine Unlearning",
        "Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu", "NeurIPS", 2023, "2304.04934",
    )  # fmt: skip
    unsuited: ClassVar[Unsuited] = {"small": UNJUDGED}

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a pruned copy of `model` that has unlearned.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the pruner removes nothing or a whole layer, or the unlearner brings weights back.
        """
        check_request("PruneThenUnlearn", data, rng)
        pruned = self.prune.apply(model, joined(data.retain, data.forget), rng=child(rng))
        emptied = set(_emptied(pruned)) - set(_emptied(model))
        if emptied:
            raise InputError(
                f"PruneThenUnlearn.prune left no weight in {', '.join(sorted(emptied))}. "
                "Ask for less sparsity, or for a budget by layer."
            )
        mask = Mask.of(pruned)
        if _zeros(mask) <= _zeros(Mask.of(model)):
            raise InputError(
                "PruneThenUnlearn.prune set no weight to zero. To unlearn a model that is pruned already, "
                "use the unlearner itself."
            )
        edited = self.unlearn.apply(pruned, data, rng=rng)
        revived = sum(int(weight[~alive].count_nonzero()) for _, weight, alive in mask.match(edited))
        if revived:
            raise InputError(
                f"PruneThenUnlearn.unlearn ({type(self.unlearn).__name__}) brought {revived} pruned weights "
                "back; it cannot hold a mask."
            )
        return edited


def _zeros(mask: Mask) -> int:
    return mask.size() - mask.count()


def _emptied(model: Module) -> Iterator[str]:
    return (name for name, p in model.named_parameters() if p.ndim > 1 and not p.detach().any())
