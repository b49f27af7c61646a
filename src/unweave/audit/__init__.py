"""Did it forget? Controls first, a relative verdict with known error rates, and every figure beside it."""

from .classifier.lira import lira
from .classifier.run import Auditor, audit
from .rates import published
from .result import (
    OUTCOMES,
    Audit,
    Check,
    Control,
    Kind,
    Outcome,
    Panel,
    Passages,
    Rates,
    Rows,
    Samples,
    Verdict,
)

__all__ = [
    "OUTCOMES",
    "Audit",
    "Auditor",
    "Check",
    "Control",
    "Kind",
    "Outcome",
    "Panel",
    "Passages",
    "Rates",
    "Rows",
    "Samples",
    "Verdict",
    "audit",
    "lira",
    "published",
]
