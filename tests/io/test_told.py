from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import Module

from tests.jobs.subjects import RECIPE, subject
from unweave.io.told import told_of
from unweave.jobs import ForgetJob, PruneJob
from unweave.unlearn import Retrain


def test_what_was_read_into_a_checkpoint_stands_in_the_reports(tmp_path: Path) -> None:
    model = subject(model=True).model
    assert isinstance(model, Module)
    file = tmp_path / "trained.pt"
    torch.save({"net": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    given = replace(subject(), model=file)
    forgotten = ForgetJob(
        subject=given, classes=["ash"], edits={"retrain": Retrain(recipe=RECIPE)}, oracles=0, holders=0
    ).run(tmp_path / "forget")
    pruned = PruneJob(subject=given, sparsity=0.5).run(tmp_path / "prune")
    (sentence,) = told_of(file)
    assert "module." in sentence
    assert told_of(tmp_path / "trained") == ()
    words = " ".join(sentence.split())[-30:]
    for page in (forgotten.page, pruned.page):
        assert "module." in page.read_text()
    assert words.replace("'", "&#39;") in pruned.page.read_text() or words in pruned.page.read_text()
    assert "module." in (forgotten.folder / "report.md").read_text()
    assert given.told[-1] == sentence
