"""A small subject of objects at hand, and runs that are killed inside a job."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from tests.faults import contents
from unweave import Supervised, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.fit import fit_
from unweave.jobs import Subject
from unweave.prune import Global, Prune

RECIPE = Supervised(network=partial(mlp, 8, 24, 3), epochs=8, lr=0.1, init_seed=0)
PRUNED = Supervised(
    network=partial(mlp, 8, 24, 3), epochs=8, lr=0.1, init_seed=0, prune=Prune(budget=Global(0.5)), recover_epochs=3
)  # fmt: skip


@cache
def subject(recipe: Supervised | None = RECIPE, model: bool = False) -> Subject:
    """150 points of three classes to train on and 90 held out; with the model that the recipe trains, if asked."""
    rng = seeded(0)
    centres = 1.2 * torch.randn(3, 8, generator=rng)
    labels = torch.arange(240) % 3
    inputs = centres[labels] + torch.randn(240, 8, generator=rng)
    train = of_tensors(inputs[:150], labels[:150], classes=3, batch_size=16)
    heldout = of_tensors(inputs[150:], labels[150:], classes=3, batch_size=16)
    return Subject(
        train=train, heldout=heldout, recipe=recipe, class_names=("ash", "birch", "cedar"),
        columns={"owner": [i // 10 for i in range(150)]},
        model=(recipe or RECIPE).build(train, rng=seeded(1)).eval() if model else None,
    )  # fmt: skip


def killed_at(replace: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that checkpoints after every step and is killed at its n-th renaming of a file.

    Returns:
        Whether it was killed; False if it ended before.
    """
    pid = os.fork()
    if pid == 0:
        os.environ["UNWEAVE_PROGRESS"] = "0"
        torch.set_num_threads(1)
        defaults: dict[str, Any] = fit_.__kwdefaults__
        defaults["checkpoint_seconds"] = -1.0
        real, calls = os.replace, [0]

        def rename(*args: Any, **kwargs: Any) -> None:
            calls[0] += 1
            if calls[0] == replace:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args, **kwargs)

        os.replace = rename
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def untimed(run: Path, told: str) -> dict[str, Any]:
    """All that a run left but its record, its page and figures of time."""
    import json

    files: dict[str, Any] = dict(contents(run, but=("run.json", "report.html", told)))
    record = json.loads((run / "run.json").read_text())
    figures = json.loads((run / told).read_text())
    figures["figures"] = {n: v for n, v in figures["figures"].items() if not n.startswith("time of")}
    files |= {"record": [record[k] for k in ("settings", "seed", "inputs")], "figures": figures}
    return files
