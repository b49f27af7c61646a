"""Optimisers and training stabilisers: sharpness-aware, zero-order, second-order; losses and projections."""

from __future__ import annotations

__all__: list[str] = []
