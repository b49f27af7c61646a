"""Forget data and classes; un-pruning."""

from __future__ import annotations

__all__: list[str] = []
