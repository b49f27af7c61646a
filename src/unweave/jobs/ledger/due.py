"""When a request must be answered: a term from the day it was received, and one extension with a reason.

Days are those of the time zone in which a request was received; it is due at the end of its last day there. A term in
months ends on the same day of the month, or on the month's last where there is none (31 January, 28 or 29 February).
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, date, datetime, time, timedelta

from ...errors import InputError
from ...settings import Whole, settings


@settings
class Term:
    """A length of time in whole days or in whole months.

    Attributes:
        days: of 24 hours of the calendar; 0 where it is in months.
        months: of the calendar; 0 where it is in days.
    """

    days: Whole = 0
    months: Whole = 0

    def __post_init__(self) -> None:
        if bool(self.days) == bool(self.months):
            raise InputError(
                f"a term is some days or some months; got {self.days} days and {self.months} months. Give one of them."
            )

    @classmethod
    def parse(cls, text: str) -> Term:
        """Read "30 days", "1 month", "30-days".

        Raises:
            InputError: if it is none of these.

        Example:
            >>> Term.parse("1 month"), Term.parse("30-days")
            (Term(days=0, months=1), Term(days=30, months=0))
        """
        found = re.fullmatch(r"\s*(\d{1,4})[\s-]*(day|month)s?\s*", text)
        if not found:
            raise InputError(f"a term is written as '30 days' or '1 month'; got {text!r}.")
        return cls(**{f"{found[2]}s": int(found[1])})

    def __str__(self) -> str:
        n, unit = (self.days, "day") if self.days else (self.months, "month")
        return f"{n} {unit}" if n == 1 else f"{n} {unit}s"

    def after(self, day: date) -> date:
        """The last day of the term that begins on `day`.

        Example:
            >>> Term(months=1).after(date(2027, 1, 31)), Term(months=1).after(date(2028, 1, 31))
            (datetime.date(2027, 2, 28), datetime.date(2028, 2, 29))
        """
        if self.days:
            return day + timedelta(days=self.days)
        year, month = divmod(day.year * 12 + day.month - 1 + self.months, 12)
        return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


EXTENSION = {"days": 60, "months": 2}
"""The longest extension."""


def due(received: datetime, term: Term, extension: Term | None = None) -> datetime:
    """The moment until which a request must be answered, in UTC.

    Args:
        received: with a time zone.
        term: from that day on.
        extension: beyond it; in months together with a term in months, so that month ends stay month ends.

    Raises:
        InputError: if `received` has no time zone, or the extension is too long.

    Example:
        >>> due(datetime(2026, 11, 28, 9, tzinfo=UTC), Term(days=30)).isoformat()
        '2026-12-28T23:59:59+00:00'
    """
    if received.tzinfo is None:
        raise InputError(f"the time {received} has no time zone. Write it as {received}+00:00, say.")
    if extension is not None and (
        extension.days > EXTENSION["days"] or extension.months > EXTENSION["months"]
    ):
        raise InputError(
            f"an extension is at most {EXTENSION['days']} days or {EXTENSION['months']} months; got {extension}."
        )
    if extension is not None and term.months and extension.months:
        term, extension = Term(months=term.months + extension.months), None
    last = term.after(received.date())
    if extension is not None:
        last = extension.after(last)
    return datetime.combine(last, time(23, 59, 59), received.tzinfo).astimezone(UTC)
