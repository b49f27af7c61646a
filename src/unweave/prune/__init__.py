"""Prune: score x pattern x budget x schedule."""

from __future__ import annotations

__all__: list[str] = []
