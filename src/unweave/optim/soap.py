"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner, from pytorch_optimizer.

Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and Stabilizing Shampoo using Adam",
ICLR 2025, arXiv 2409.11321, algorithm 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch.optim import Optimizer

from ..errors import InputError, require
from ..paper import Paper


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
        merge_dims: fold small dimensions of convolutions first.
        precondition_1d: rotate tensors of one dimension too.
        normalize_grads: divide the update by its root mean square.
        correct_bias: Adam's bias correction.

    Raises:
        MissingExtraError: if pytorch_optimizer is absent.
        InputError: if lr is not positive or precondition_frequency below 1.
    """

    paper: ClassVar[Paper] = Paper(
        "SOAP: Improving and Stabilizing Shampoo using Adam",
        "Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade", "ICLR", 2025, "2409.11321",
    )  # fmt: skip
    needs: ClassVar[tuple[str, ...]] = ()

    def __new__(
        cls, params: Iterable[Any], lr: float = 3e-3, *, betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = -1, eps: float = 1e-8, weight_decay: float = 0.01, precondition_frequency: int = 10,
        max_precond_dim: int = 10000, merge_dims: bool = False, precondition_1d: bool = False,
        normalize_grads: bool = False, correct_bias: bool = True,
    ) -> Any:  # fmt: skip
        """Make the package's optimiser."""
        if not lr > 0 or precondition_frequency < 1:
            raise InputError(
                f"SOAP needs lr > 0 and precondition_frequency >= 1; got {lr} and {precondition_frequency}."
            )
        made = require("pytorch_optimizer", extra="optim", purpose="SOAP").SOAP
        return made(
            params, lr=lr, betas=betas, shampoo_beta=None if shampoo_beta < 0 else shampoo_beta, eps=eps,
            weight_decay=weight_decay, precondition_frequency=precondition_frequency,
            max_precondition_dim=max_precond_dim, merge_dims=merge_dims, precondition_1d=precondition_1d,
            normalize_gradient=normalize_grads, correct_bias=correct_bias,
        )  # fmt: skip
