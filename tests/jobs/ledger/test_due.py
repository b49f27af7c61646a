from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from unweave.errors import InputError
from unweave.jobs.ledger import Term, due


@pytest.mark.parametrize(
    ("term", "day", "last"),
    [
        ("30 days", date(2026, 11, 28), date(2026, 12, 28)),
        ("30 days", date(2027, 1, 31), date(2027, 3, 2)),  # February has 28 days
        ("30 days", date(2028, 1, 31), date(2028, 3, 1)),  # and 29 in a leap year
        ("30 days", date(2100, 1, 31), date(2100, 3, 2)),  # which 2100 is not
        ("30 days", date(2026, 12, 15), date(2027, 1, 14)),
        ("1 month", date(2026, 11, 30), date(2026, 12, 30)),
        ("1 month", date(2027, 1, 31), date(2027, 2, 28)),
        ("1 month", date(2028, 1, 31), date(2028, 2, 29)),
        ("1 month", date(2028, 2, 29), date(2028, 3, 29)),
        ("1 month", date(2026, 12, 31), date(2027, 1, 31)),
        ("3 months", date(2026, 11, 30), date(2027, 2, 28)),
        ("12 months", date(2028, 2, 29), date(2029, 2, 28)),
    ],
)
def test_last_day_of_a_term(term: str, day: date, last: date) -> None:
    assert Term.parse(term).after(day) == last


def test_due_at_the_end_of_the_last_day_where_it_was_received() -> None:
    tokyo, york = timezone(timedelta(hours=9)), timezone(timedelta(hours=-5))
    thirty = Term(days=30)
    # the same instant is another day in another place
    assert due(datetime(2027, 2, 1, 0, 30, tzinfo=tokyo), thirty) == datetime(
        2027, 3, 3, 14, 59, 59, tzinfo=UTC
    )
    assert due(datetime(2027, 1, 31, 10, 30, tzinfo=york), thirty) == datetime(
        2027, 3, 3, 4, 59, 59, tzinfo=UTC
    )
    assert due(datetime(2027, 1, 31, 15, 30, tzinfo=UTC), thirty) == datetime(
        2027, 3, 2, 23, 59, 59, tzinfo=UTC
    )


def test_extension() -> None:
    at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    # one month and two more are three, not the end of December and then two
    assert due(at, Term(months=1), Term(months=2)).date() == date(2027, 2, 28)
    assert due(at, Term(days=30), Term(days=60)).date() == at.date() + timedelta(days=90)
    assert due(at, Term(months=1), Term(days=60)).date() == date(2026, 12, 30) + timedelta(days=60)
    for longest in (Term(days=61), Term(months=3)):
        with pytest.raises(InputError, match="an extension is at most 60 days or 2 months"):
            due(at, Term(days=30), longest)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="has no time zone"):
        due(datetime(2026, 11, 28), Term(days=30))
    for text in ("", "soon", "30", "-1 days", "1.5 days", "30 days 1 month"):
        with pytest.raises(InputError, match="a term is written as"):
            Term.parse(text)
    for both in ({}, {"days": 1, "months": 1}):
        with pytest.raises(InputError, match="Give one of them"):
            Term(**both)
    assert str(Term.parse("1-month")) == "1 month"
    assert str(Term(days=30)) == "30 days"
