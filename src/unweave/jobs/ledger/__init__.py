"""The ledger of deletions: requests with due dates, the models that they concern, and evidence of what was done.

`Ledger.init(folder)`, `ledger.models.add(...)`, `ledger.request(...)`, `ServeJob(ledger=ledger).run()`, then
`verify(ledger)`.
"""

from __future__ import annotations

from .book import Intake, Ledger, Policy
from .due import Term, due
from .evidence import included, verify, verify_bundle
from .plan import LEVELS, Plan, plan
from .serve import ServeJob
from .served import Served

__all__ = [
    "LEVELS", "Intake", "Ledger", "Plan", "Policy", "ServeJob", "Served", "Term", "due", "included", "plan", "verify",
    "verify_bundle",
]  # fmt: skip
