"""Two processes that train sparsely exchange the same weights, and end where one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.processes import run_ranks
from unweave.io.nested import load_nested

_SCRIPT = """
import os, sys, warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import torch
import unweave.prune as p
from tests.fit import test_fit_resume as t
from unweave import Supervised, seeded
from unweave.io.nested import save_nested
from unweave.embedded.nets import mlp

warnings.simplefilter("ignore")
rank, folder = int(os.environ.get("RANK", "0")), Path(sys.argv[1])
every, half = {"every": 3, "budget": p.ERK(0.5)}, p.Uniform(0.5)
METHODS = {
    "RigL": p.RigL(rate=0.5, **every), "SET": p.SET(rate=0.5, **every), "DSR": p.DSR(rate=0.3, **every),
    "ITOP": p.ITOP(grow="gradient", **every), "MEST": p.MEST(every=3, budget=half, ratio=0.2, influence=1.0),
    "MEST, em&s": p.MEST(every=3, budget=half, ratio=0.2, mode="em&s"),
}
data = t._data(37, 8)  # the last batch is smaller, and of odd length: the processes' shares differ


@dataclass(frozen=True)
class Watched:
    method: object
    masks: list

    def begin(self, *args, **kw):
        mask, change = self.method.begin(*args, **kw)
        self.masks.append(mask)

        def after(step):
            change(step)
            self.masks.append(step.hold)

        return mask, after


for name, method in METHODS.items():
    watched = Watched(method, [])
    recipe = Supervised(network=partial(mlp, 6, 16, 3), epochs=4, sparse=watched)
    model = recipe.build(data, rng=seeded(2))
    flat = [torch.cat([m.keep[n].flatten() for n in sorted(m.keep)]) for m in watched.masks]
    weights = torch.cat([w.detach().flatten() for w in model.parameters()])
    save_nested({"masks": torch.stack(flat), "weights": weights}, folder / f"{name}-{rank}")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_exchange_the_same_weights_as_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    for folder, processes in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        run_ranks(script, str(tmp_path / folder), cwd=root, processes=processes)
    names = sorted(p.name.removesuffix("-0") for p in (tmp_path / "one").iterdir())
    assert len(names) == 6
    for name in names:
        alone = load_nested(tmp_path / "one" / f"{name}-0")
        first, second = (load_nested(tmp_path / "two" / f"{name}-{rank}") for rank in (0, 1))
        assert int((alone["masks"][1:] != alone["masks"][:-1]).any(1).sum()) >= 4, (
            f"{name} exchanged too rarely"
        )
        # the mask after every step, not only the last
        assert torch.equal(first["masks"], second["masks"]), f"{name}: the processes hold different masks"
        assert torch.equal(first["weights"], second["weights"]), (
            f"{name}: the processes hold different weights"
        )
        assert torch.equal(first["masks"], alone["masks"]), (
            f"{name}: two processes exchange other weights than one"
        )
        torch.testing.assert_close(first["weights"], alone["weights"], rtol=0, atol=1e-4, msg=name)
