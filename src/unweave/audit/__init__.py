"""Did it forget? Controls first, a relative verdict with known error rates, and every figure beside it."""

from .klom import klom
from .rates import published
from .result import Audit, Control, Outcome, Rates, Verdict
from .run import audit
from .ulira import lira, ulira

__all__ = ["Audit", "Control", "Outcome", "Rates", "Verdict", "audit", "klom", "lira", "published", "ulira"]
