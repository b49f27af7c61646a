"""Rows of the methods that restore: each on a few small pictures, frames, cubes or sounds made on the spot."""

from __future__ import annotations

from tests.contract.others import PlainRow

RESTORERS: list[PlainRow] = []
