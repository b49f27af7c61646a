"""`unweave train --exact`: models that can forget exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..catalogue import find
from ..errors import InputError
from ..jobs.exact import EMBEDDED, ExactJob, dense
from ..jobs.opened import Folder, open_subject
from ..unlearn import S3T, SISA
from ._flags import key_of, options_of, with_groups
from ._named import build
from ._parse import carried_out, named_methods
from ._recipes import OWN, changed


def with_exact_options(options: type[Any], argv: Sequence[str]) -> type[Any]:
    """`options` with the flags of the method that --exact names."""
    names = [n for n in named_methods(argv, ("--exact",), "") if n in ("sisa", "s3t")]
    return with_groups(options, ((key_of(n), n, options_of(find(n).cls, ("pretrained_on",))) for n in names))


def train_exact(asked: Any, argv: Sequence[str]) -> int:
    """Train a model that can forget exactly."""
    if asked.after is not None:
        raise InputError("--exact does not read --after. Leave out of the data what was deleted.")
    idle = [n for n in ("optimizer", "base", "sparse") if getattr(asked, n) not in ("", OWN)]
    if asked.exact == "s3t":
        idle += [n for n in ("epochs", "lr") if getattr(asked, n) is not None]
    if idle or asked.sparsity is not None:
        told = ", ".join(f"--{n}" for n in [*idle, *(["sparsity"] if asked.sparsity is not None else [])])
        cure = (
            "Give --s3t.epochs and --s3t.lr."
            if asked.exact == "s3t"
            else "Set them in the recipe of project.py."
        )
        raise InputError(f"--exact {asked.exact} does not read {told}. {cure}")
    subject = dense(open_subject(asked.project, Folder(data=asked.data, base=asked.pretrained)))
    more: dict[str, Any] = {"pretrained_on": asked.pretrained_on}
    if asked.exact == "sisa":
        given = {n: getattr(asked, n) for n in ("epochs", "lr") if getattr(asked, n) is not None}
        own = subject.require_recipe("nothing can be trained", "Define `recipe` in project.py.")
        more["recipe"] = changed(own, **given)
        subject = replace(subject, recipe=more["recipe"])
    method = build(SISA if asked.exact == "sisa" else S3T, getattr(asked, key_of(asked.exact), None), more)
    job = ExactJob(
        subject=subject, method=method, by=asked.by, source=asked.project or EMBEDDED, seed=asked.seed
    )
    carried_out(job, asked, "train", argv, asked.project, asked.seed)
    return 0


def refuse_idle_exact(asked: Any) -> None:
    """Refuse flags that only --exact reads."""
    idle = [name for name in ("pretrained_on", "by") if getattr(asked, name)]
    if idle:
        raise InputError(
            f"--{idle[0].replace('_', '-')} would do nothing without --exact sisa or --exact s3t."
        )
