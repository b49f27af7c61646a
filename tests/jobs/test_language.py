"""Language models pruned as a job: a folder and texts in, a folder out, perplexity before and after."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import causal_world as world
from tests.cli.projects import unweave
from unweave import Mask
from unweave.cli import prune
from unweave.errors import InputError, MissingExtraError
from unweave.io.causal_lm import load_causal_lm
from unweave.io.texts import read_sequences
from unweave.jobs import PruneJob, Subject, language_subject
from unweave.jobs.language import instructions_for
from unweave.prune import NM, PASER, Recovery, SparseGPT, WandaPrune
from unweave.tasks import perplexity

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("language")
    world.folder(at / "llama", "llama", torch.bfloat16, shard=12_000)
    world.folder(at / "qwen3", "qwen3")
    world.folder(at / "gpt2", "gpt2")
    world.running(at / "a.txt")
    world.prompts(at / "b.jsonl")
    return at


def opened(place: Path, kind: str = "llama", texts: str = "a.txt", **more: Any) -> Subject:
    return language_subject(place / kind, place / texts, length=16, **more)


def test_windows_are_held_out_and_stated(place: Path) -> None:
    subject = opened(place)
    whole = read_sequences(place / "a.txt", world.tokenizer(), 16).data
    kept = len(whole) // 5
    assert (len(subject.train), len(subject.heldout)) == (len(whole) - kept, kept)
    assert (
        subject.notes[-1]
        == f"The last {kept} of these {len(whole)} sequences are held out to measure perplexity."
    )
    ids = [
        next(d.subset([0]).batches())["input_ids"][0]
        for d in (subject.heldout, whole.subset([len(whole) - kept]))
    ]
    assert torch.equal(*ids)
    apart = opened(place, heldout=place / "b.jsonl")
    assert len(apart.train) == len(whole)
    assert len(apart.heldout) == 24
    assert "held out: b.jsonl: 24 sequences of at most 16 tokens" in apart.notes[1]
    assert len(language_subject(place / "llama", place / "a.txt").train.examples.dataset[0]["labels"]) == 32
    strided = opened(place, heldout=place / "a.txt", stride=4).heldout
    assert len(strided) > 3 * len(whole)
    assert perplexity(load_causal_lm(place / "qwen3"), strided) > 1


def test_a_sharded_half_precision_folder_is_pruned_and_recovered(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    job = PruneJob(
        subject=opened(place), method=SparseGPT(pattern=NM(2, 4), refit=True), recover=Recovery(by="lora", lr=1e-2),
        instructions=instructions_for(place / "llama", place / "b.jsonl", length=16),
        chooser=PASER(budget=12, clusters=3),
    )  # fmt: skip
    done = job.run(tmp_path / "run")
    before, after, unit = done.figures["held-out perplexity"]
    assert unit == ""
    model = load_causal_lm(done.model)
    assert before == perplexity(load_causal_lm(place / "llama"), job.subject.heldout)
    assert after == perplexity(model, job.subject.heldout)
    assert done.figures["held-out perplexity before recovery"][0] == before
    assert done.figures["matrix weights kept"][1] == 50
    assert done.figures["weights in memory"][0] == sum(p.numel() * 2 for p in model.parameters()) / 2**20
    assert set(done.layers.values()) == {50.0}
    assert model.dtype == torch.bfloat16
    for weight in (p for n, p in model.named_parameters() if "layers" in n and p.ndim == 2):
        assert int((weight.view(len(weight), -1, 4) != 0).sum(2).max()) == 2
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert (done.model / name).read_bytes() == (place / "llama" / name).read_bytes()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    told = " ".join(done.notes)
    assert "PASER chose 12 of 24 instructions" in told
    assert "Recovered by lora on 12 examples for 1 passes (2 steps)" in told
    assert "read back from its folder" in told
    page = done.page.read_text()
    assert "Held-out perplexity went from" in page
    assert "weights in memory" in page
    assert "mlp.down_proj" in page
    assert "Pruned by sparse-gpt" in (done.model / "README.md").read_text()
    assert job.run(tmp_path / "run") == done  # finished: nothing is done again
    changed = replace(job, chooser=PASER(budget=10, clusters=3))
    with pytest.raises(InputError, match="other settings"):
        changed.run(tmp_path / "run")


def test_padding_is_not_seen(place: Path, tmp_path: Path) -> None:
    kind, method = "gpt2", WandaPrune(sparsity=0.5)
    done = PruneJob(subject=opened(place, kind, "b.jsonl"), method=method).run(tmp_path / "run")
    alone = method.apply(
        load_causal_lm(place / kind),
        replace(opened(place, kind, "b.jsonl").train, batch_size=1),
        rng=torch.Generator(),
    )
    assert Mask.of(load_causal_lm(done.model)).iou(Mask.of(alone)) > 0.999


def test_refuses_and_writes_nothing(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.txt").write_text("dog")
    (tmp_path / "few.txt").write_text(world.SENTENCE * 2)
    (tmp_path / "empty.jsonl").write_text("")
    for given, message in (
        ({"texts": tmp_path / "one.txt"}, "tokens; a window takes 16"),
        ({"texts": tmp_path / "empty.jsonl"}, "no text with a token to predict"),
        ({"texts": tmp_path / "few.txt"}, "makes one sequence, so none is left to be held out"),
        ({"stride": 4}, "stride is for held-out running text"),
    ):
        with pytest.raises(InputError, match=message):
            language_subject(**{"folder": place / "llama", "texts": place / "a.txt", "length": 16, **given})
    with pytest.raises(InputError, match="a .jsonl file of prompts and answers"):
        instructions_for(place / "llama", place / "a.txt")
    subject = opened(place)
    for given, message in (
        ({"recover": Recovery(), "recover_epochs": 2}, "recover_epochs=2 would do nothing beside recover"),
        ({"instructions": subject.train}, "would do nothing without recover"),
        ({"chooser": PASER(budget=0.5)}, "would do nothing without instructions"),
    ):
        with pytest.raises(InputError, match=message):
            PruneJob(subject=subject, method=SparseGPT(), **given)
    bare = world.folder(tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        language_subject(bare, place / "a.txt")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="needs peft"):
        PruneJob(subject=subject, method=SparseGPT(), recover=Recovery(by="lora"))


@pytest.mark.slow
def test_the_command(place: Path, tmp_path: Path) -> None:
    done = unweave(
        "prune", str(place / "gpt2"), "--calibration", str(place / "a.txt"), "--length", "16", "--method", "sparse-gpt",
        "--recover", "distil", "--recover-epochs", "2", "--json", "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"held-out perplexity", "held-out perplexity before recovery"} <= set(figures)
    assert "windows of 16 tokens, one every 16" in done.stderr
    for flags, message in (
        (["--calibration", "no.txt"], "there is no file no.txt"),
        (["--calibration", str(place / "a.txt"), "--pattern", "2:x"], "--pattern must be"),
        (["--calibration", str(place / "a.txt"), "--data", "imagefolder:x"], "--data is for a classifier"),
        (["--length", "8"], "--length is for a language model"),
        (
            ["--calibration", str(place / "a.txt"), "--instructions", str(place / "b.jsonl")],
            "needs --recover",
        ),
    ):
        with pytest.raises(InputError, match=message):
            prune.run([str(place / "gpt2"), *flags, "--out", str(tmp_path / "other")])
        assert not (tmp_path / "other").exists()
