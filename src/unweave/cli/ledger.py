"""`unweave ledger`: deletion requests with due dates, the models they concern, and evidence of what was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console

from . import (
    _ledger_add,
    _ledger_amend,
    _ledger_begin,
    _ledger_request,
    _ledger_serve,
    _ledger_status,
    _ledger_use,
)

VERBS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "init": (_ledger_begin.init, "begin a ledger, with the model that requests are about"),
    "add": (_ledger_add.add, "take in another model: a child, or a new version made elsewhere"),
    "request": (_ledger_request.request, "take in a request to delete examples"),
    "amend": (_ledger_amend.amend, "give a request more time, hold it, lift the hold, or refuse it"),
    "status": (
        _ledger_status.status,
        "requests with their due dates, models in use, how long requests take",
    ),
    "plan": (_ledger_serve.show_plan, "what serving would do, and why; nothing is changed"),
    "serve": (_ledger_serve.serve, "carry out what is open: the same as unweave forget --ledger DIR"),
    "use": (
        _ledger_use.use,
        "put another version of a model into use; refused if it holds what was deleted",
    ),
    "verify": (_ledger_status.check, "check every entry, model and piece of evidence"),
}

EXAMPLE = """  unweave ledger init ./deletions project.py --model model.safetensors
  unweave ledger request ./deletions --ids delete.txt --ground "consent withdrawn" --verified
  unweave ledger status ./deletions
  unweave ledger serve ./deletions --now
  unweave ledger verify ./deletions"""


def run(argv: Sequence[str]) -> int:
    """Run one verb."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        Console(highlight=False, soft_wrap=True).print(usage(), markup=False)
        return 0
    if argv[0] not in VERBS:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"error: unweave ledger has no {argv[0]!r}. It has: {', '.join(VERBS)}.", markup=False
        )
        return 2
    return VERBS[argv[0]][0](argv[1:])


def usage() -> str:
    """The text of `unweave ledger --help`."""
    width = max(map(len, VERBS))
    table = "\n".join(f"  {name:{width}}  {what}" for name, (_, what) in VERBS.items())
    return (
        "usage: unweave ledger VERB DIR [options]\n\n"
        "Serve deletion requests one after another, so that none undoes an earlier one: a log that cannot be changed\n"
        "unnoticed, due dates, every model that ever saw an example, and evidence for whoever asks.\n\n"
        f"{table}\n\nExample:\n{EXAMPLE}\n\n"
        "No id, no value of a column and no name of a file of yours is written into the ledger: examples are known by\n"
        "fingerprints under a key in DIR. Keep copies of DIR; without the key nobody can tell what was deleted."
    )
