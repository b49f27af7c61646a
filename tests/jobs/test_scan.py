"""The held-out figure with one layer alone pruned, by every way to prune at once; nothing is written to the model."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import zoo
from tests.jobs.subjects import RECIPE, subject
from unweave import Data, seeded
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.jobs import ScanJob, Scanned, Subject, scan
from unweave.masks.layers import copied
from unweave.prune import GMP, NM, Channel, Magnitude, Prune, Scope, SparseGPT, Uniform, Wanda
from unweave.tasks import accuracy, predict


def test_each_layer_alone(tmp_path: Path) -> None:
    whole = subject(model=True)
    model = whole.model
    assert isinstance(model, nn.Module)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    done = ScanJob(subject=whole, sparsities=(0.5, 0.9), examples=None).run(tmp_path)
    assert done.layers.keys() == {"1.weight", "3.weight"}
    for name, row in done.layers.items():
        for sparsity, (right, loss) in row.items():
            alone = copied(model)
            weight = dict(alone.named_parameters())[name]
            living = round((1 - sparsity) * weight.numel())
            least = weight.detach().abs().flatten().sort(descending=True).values[living - 1]
            with torch.no_grad():
                weight[weight.abs() < least] = 0.0
            assert right == accuracy(alone, whole.heldout)
            assert loss == pytest.approx(
                float(predict(alone, whole.heldout, whole.heldout.task.losses).double().mean())
            )
    assert done.dense[0] == accuracy(model, whole.heldout)
    assert done.figure == "accuracy"
    rise = {n: sum(loss for _, loss in row.values()) for n, row in done.layers.items()}
    assert done.ranked == sorted(rise, key=lambda n: -rise[n])
    assert sum(done.shares.values()) == pytest.approx(100)
    assert not (tmp_path / "model").exists()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    again = Scanned.read(tmp_path)
    assert again == done
    page = done.page.read_text()
    for text in ("1.weight", "accuracy at 0.9", "loss at 0.5", "<svg"):
        assert text in page
    assert done.ranked[0] in str(done).splitlines()[2]
    assert json.loads(done.json())["figure"] == "accuracy"


def test_a_scan_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ScanJob(subject=subject(model=True), sparsities=(0.5, 0.9))
    whole = job.run(tmp_path / "whole")
    measured, calls = scan._measured, [0]

    def stopped(model: nn.Module, data: Data[Any]) -> tuple[float, float]:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return measured(model, data)

    monkeypatch.setattr(scan, "_measured", stopped)
    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "scan.json").exists()
    done = job.run(tmp_path / "stopped")
    assert calls == [6]  # the first layer, of two sparsities, was not measured again
    assert (done.layers, done.shares) == (whole.layers, whole.shares)


def test_units_named_by_a_table_are_scanned_with_all_that_falls_with_them(tmp_path: Path) -> None:
    member = next(m for m in zoo.ZOO if m.name == "llama")
    texts = Subject(train=member.data(), heldout=member.data(), model=member.model())
    method = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(heads="queries"))
    done = ScanJob(subject=texts, method=method, sparsities=(0.5,)).run(tmp_path)
    sizes = {n: p.numel() for n, p in member.model().named_parameters() if p.ndim > 1 and "embed" not in n}
    heads, inner = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight")
    assert "model.embed_tokens.weight" in done.layers
    for first, others in ((heads, ("q_proj", "o_proj")), (inner, ("gate_proj", "up_proj"))):
        part = sum(n for name, n in sizes.items() if "layers.0." in name and name.split(".")[-2] in others)
        assert done.shares[first] == pytest.approx(100 * part / sum(sizes.values()))
    assert "Held-out perplexity" in str(done)
    assert " , with" not in str(done)


def test_channels_walked_layers_and_patterns(tmp_path: Path) -> None:
    recipe = replace(RECIPE, network=partial(mlp, 8, 24, 3, batch_norm=True))
    normed = replace(subject(), recipe=recipe, model=recipe.network())
    method = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel())
    done = ScanJob(subject=normed, method=method, sparsities=(0.5,), examples=30).run(tmp_path / "channel")
    assert list(done.layers) == ["1.weight"]
    assert "30 of 90 held-out examples" in done.notes[0]
    expected = replace(method, budget=Uniform(0.5)).apply(normed.model, normed.train, rng=seeded(0))  # type: ignore[arg-type]
    few = normed.heldout.subset(torch.linspace(0, 89, 30).round().long())
    assert done.layers["1.weight"][0.5][0] == accuracy(expected, few)
    walked = ScanJob(subject=subject(model=True), method=SparseGPT(), sparsities=(0.5,)).run(
        tmp_path / "walked"
    )
    one = SparseGPT(scope=Scope(only=("3.weight",), least=0.0)).apply(
        subject(model=True).model, subject().train, rng=seeded(0)  # type: ignore[arg-type]
    )  # fmt: skip
    assert walked.layers["3.weight"][0.5][0] == accuracy(one, subject().heldout)
    fixed = ScanJob(subject=subject(model=True), method=Prune(score=Wanda(), pattern=NM(2, 4))).run(
        tmp_path / "nm"
    )
    assert {s for row in fixed.layers.values() for s in row} == {0.5}


def test_what_makes_no_scan_is_refused() -> None:
    for given, message in (
        ({"sparsities": ()}, "different shares above 0 and below 1"),
        ({"sparsities": (0.5, 0.5)}, "different shares"),
        ({"sparsities": (1.0,)}, "different shares"),
        ({"method": GMP()}, "gmp trains. Take a score"),
        ({"examples": 0}, "ScanJob.examples"),
        ({"subject": replace(subject(), recipe=None)}, "no model can be trained"),
    ):
        with pytest.raises(InputError, match=message):
            ScanJob(**{"subject": subject(model=True), **given})
