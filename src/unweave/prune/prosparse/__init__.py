"""ProSparse: training to sparse activations, what a saved model says of them, and a feed-forward that profits."""

from __future__ import annotations

from .described import FATReLU, register_fatrelu
from .feed_forward import SparseFeedForward
from .prosparse import ProSparse, activation_sparsity, set_threshold_

__all__ = [
    "FATReLU", "ProSparse", "SparseFeedForward", "activation_sparsity", "register_fatrelu", "set_threshold_",
]  # fmt: skip
