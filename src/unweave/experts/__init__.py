"""Mixtures of experts: condense, prune, merge."""

from .cd_moe import CDMoE, Choice

__all__ = ["CDMoE", "Choice"]
