"""ProSparse: training to sparse activations (prosparse), and a feed-forward that profits from them (feed_forward)."""

from __future__ import annotations

from .feed_forward import SparseFeedForward
from .prosparse import FATReLU, ProSparse, activation_sparsity, set_threshold_

__all__ = ["FATReLU", "ProSparse", "SparseFeedForward", "activation_sparsity", "set_threshold_"]
