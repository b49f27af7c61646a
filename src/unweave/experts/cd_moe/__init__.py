"""CD-MoE: condense whole mixture-of-experts layers."""

from .cd_moe import CDMoE, Choice

__all__ = ["CDMoE", "Choice"]
