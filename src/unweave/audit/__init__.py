"""Did it forget? Controls first, a relative verdict with known error rates, and every figure beside it."""

from .classifier.klom import klom
from .classifier.run import audit
from .classifier.ulira import lira, ulira
from .rates import published
from .result import Audit, Control, Outcome, Rates, Verdict

__all__ = ["Audit", "Control", "Outcome", "Rates", "Verdict", "audit", "klom", "lira", "published", "ulira"]
