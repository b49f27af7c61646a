"""Two processes train to where one does, and perturb alike on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.processes import run_ranks
from unweave.io.nested import load_nested

_SCRIPT = """
import os, sys, warnings
from functools import partial
from pathlib import Path
import torch
from torch.nn import Linear, Sequential, Tanh
import unweave.optim as o
from tests.fit import test_fit_resume as t
from unweave import fit_, seeded
from unweave.io.nested import save_nested
from unweave.fit.recipe import mean_loss

warnings.simplefilter("ignore")
rank, folder = int(os.environ.get("RANK", "0")), Path(sys.argv[1])
MAKERS = {
    "SAM": o.SAM, "ASAM": o.ASAM, "GSAM": o.GSAM, "LookSAM": partial(o.LookSAM, k=3), "ESAM": o.ESAM, "S2SAM": o.S2SAM,
    "CrAM": o.CrAM, "ZOSAM": partial(o.ZOSAM, rho=0.3), "guided": partial(o.ZOSAM, directions="guided", m=2),
}
data = t._data(37, 8)
mask = t._mask(Sequential(Linear(6, 16), Tanh(), Linear(16, 3)))
for name, make in MAKERS.items():
    torch.manual_seed(0)
    model = Sequential(Linear(6, 16), Tanh(), Linear(16, 3))
    mask.apply_(model)
    seen = []

    def objective(m, batch):
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return mean_loss(data)(m, batch)

    optimizer = make(model.parameters(), lr=0.1, momentum=0.9)
    fit_(model, data, objective, optimizer, epochs=2, rng=seeded(0), hold=mask)
    save_nested({"seen": torch.stack(seen)}, folder / f"{name}-{rank}")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_perturb_alike_and_end_where_one_does(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    for folder, processes in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        run_ranks(script, str(tmp_path / folder), cwd=root, processes=processes)
    names = sorted(p.name.removesuffix("-0") for p in (tmp_path / "one").iterdir())
    assert len(names) == 9
    for name in names:
        alone = load_nested(tmp_path / "one" / f"{name}-0")["seen"]
        ranks = [load_nested(tmp_path / "two" / f"{name}-{rank}")["seen"] for rank in (0, 1)]
        # every place at which either process looked, perturbed ones included
        assert torch.equal(*ranks), f"{name}: the processes perturbed differently"
        assert float((alone - ranks[0]).abs().max()) < 1e-4, f"{name}: two processes are not one"
