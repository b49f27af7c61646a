"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, from pytorch_optimizer.

Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using Adam",
ICLR 2025, arXiv 2409.11321, algorithm 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any, ClassVar, Literal, final

from torch import Tensor
from torch.optim import Optimizer

from ..errors import InputError, require
from ..paper import Paper
from ..settings import Count, NonNegative, Part, Positive, checked


@final
class SOAP(Optimizer):
    """`pytorch_optimizer.SOAP` under the argument names of the authors' file; tests hold it to the paper.

    The first step only makes the basis: no weight moves. A rotated update reaches dead weights of a mask too; `fit_`
    puts them back to zero, but what the optimiser remembers of them is mixed into the living: use structured masks
    with it, or none.

    Args:
        params: parameters or groups.
        lr: learning rate.
        betas: decay of the first and second moments.
        shampoo_beta: decay of the preconditioner; -1 is the second of `betas`.
        eps: added to the denominator.
        weight_decay: decoupled.
        precondition_frequency: steps between two refreshes of the basis.
        max_precond_dim: dimensions larger than this keep the identity; set it below a vocabulary's size.
        merge_dims: fold neighbouring dimensions of a tensor together first, up to max_precond_dim.
        precondition_1d: rotate tensors of one dimension too.
        normalize_grads: divide the update by its root mean square.
        correct_bias: Adam's bias correction.

    Raises:
        MissingExtraError: if pytorch_optimizer is absent.
        InputError: if a setting is out of its range, or merge_dims would fold a tensor into one dimension.
    """

    paper: ClassVar[Paper] = Paper(
        "SOAP: Improving and Stabilizing Shampoo using Adam",
        "Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade", "ICLR", 2025, "2409.11321",
    )  # fmt: skip

    @checked
    def __init__(
        self, params: Iterable[Any], lr: Positive = 3e-3, *, betas: tuple[Part, Part] = (0.95, 0.95),
        shampoo_beta: Literal[-1] | Part = -1, eps: Positive = 1e-8, weight_decay: NonNegative = 0.01,
        precondition_frequency: Count = 10, max_precond_dim: Count = 10000, merge_dims: bool = False,
        precondition_1d: bool = False, normalize_grads: bool = False, correct_bias: bool = True,
    ) -> None:  # fmt: skip
        theirs = _theirs()(
            params, lr=lr, betas=betas, shampoo_beta=None if shampoo_beta == -1 else shampoo_beta, eps=eps,
            weight_decay=weight_decay, precondition_frequency=precondition_frequency,
            max_precondition_dim=max_precond_dim, merge_dims=merge_dims, precondition_1d=precondition_1d,
            normalize_gradient=normalize_grads, correct_bias=correct_bias,
        )  # fmt: skip
        super().__init__(theirs.param_groups, theirs.defaults)
        self._made = theirs

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group.

        Raises:
            InputError: if merge_dims would fold one of its tensors into one dimension.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"] if group["merge_dims"] else ():
            if p.ndim > 1 and prod(p.shape) <= group["max_precondition_dim"]:
                raise InputError(
                    f"SOAP.merge_dims would fold a tensor of shape {tuple(p.shape)} into one dimension, which "
                    f"pytorch_optimizer cannot. Leave it out, or set max_precond_dim below {prod(p.shape)}."
                )

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """The package's step, on our groups and state.

        Returns:
            The closure's loss.
        """
        loss: Tensor | None = self._shell().step(closure)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Read back what `state_dict` gave, as the package does."""
        theirs = self._shell()
        theirs.load_state_dict(state_dict)
        self.__setstate__({"state": theirs.state, "param_groups": theirs.param_groups})

    def _shell(self) -> Any:
        """The package's optimiser, made anew where a copy has none, over our groups and state."""
        if "_made" not in vars(self):
            self._made = _theirs()(self.param_groups)
        self._made.param_groups, self._made.state = self.param_groups, self.state
        return self._made


def _theirs() -> Any:
    return require("pytorch_optimizer", extra="optim", purpose="SOAP").SOAP
