"""Exact by construction: data in shards and slices, stages by the slices they saw, and deletion by dropping stages."""

from __future__ import annotations

from .ensemble import Ensemble
from .folder import is_exact, kept_in, open_exact, open_service, save_exact, update_exact_
from .orders import score, sequences, simulate
from .proof import Proof, prove
from .service import Deleted, RetrainingDue, Service
from .slices import Slices, ids_of

__all__ = [
    "Deleted", "Ensemble", "Proof", "RetrainingDue", "Service", "Slices", "ids_of", "is_exact", "kept_in", "open_exact",
    "open_service", "prove", "save_exact", "score", "sequences", "simulate", "update_exact_",
]  # fmt: skip
