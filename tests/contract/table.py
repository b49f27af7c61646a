"""Every method's row, by its role. A new method adds one row to the file of its role (see `HOMES`).

The shared checks of a row's kind then hold for it: test_edits, test_scores, test_optimizers, test_others, and, for every
method that has settings, test_settings.
"""

from __future__ import annotations

from tests.contract.edits import EDITS, EditRow
from tests.contract.erasers import ERASERS
from tests.contract.generators import GENERATORS
from tests.contract.language import LANGUAGE
from tests.contract.optimizers import OPTIMIZERS, OptimizerRow
from tests.contract.others import OTHERS, PlainRow
from tests.contract.restorers import RESTORERS
from tests.contract.scores import SCORES, ScoreRow

AnyRow = EditRow | OptimizerRow | PlainRow | ScoreRow

HOMES = {"Edit": "edits.py", "Score": "scores.py", "Optimizer": "optimizers.py"}
"""Role -> file of its rows in tests/contract; `home` names those of families with a file of their own, others.py is for
every other role."""

ROWS: list[AnyRow] = [*EDITS, *ERASERS, *LANGUAGE, *SCORES, *OPTIMIZERS, *GENERATORS, *RESTORERS, *OTHERS]


def home(role: str, family: str) -> str:
    """The file for a method's row."""
    own = {
        "erase": "erasers.py",
        "language": "language.py",
        "generate": "generators.py",
        "restore": "restorers.py",
    }
    return own.get(family) or HOMES.get(role, "others.py")
