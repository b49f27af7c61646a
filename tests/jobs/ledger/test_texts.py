"""Requests to forget texts, one after another: a language model's folder through a ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tests import causal_world as world
from unweave import Request, seeded
from unweave.audit.classifier.verdict import Decision
from unweave.audit.result import Audit, Verdict
from unweave.cli import main
from unweave.errors import InputError
from unweave.io.deleted import read_deleted
from unweave.io.transformers_folder import TransformersRecipe
from unweave.jobs import Subject
from unweave.jobs.deletion import Deletion
from unweave.jobs.kinds import Case, Judge, Kind
from unweave.jobs.ledger import Ledger, ServeJob, verify
from unweave.jobs.ledger.plan import opened
from unweave.jobs.ledger.utility import lost
from unweave.jobs.texts import OfTexts, TextFiles, text_subject

pytest.importorskip("transformers")

WORDS = world.SENTENCE.replace(".", "").split()
SECRET = "quartz"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its base and texts of four people, six a person, of whom one says what nobody else does."""
    at = tmp_path_factory.mktemp("texts")
    world.folder(at / "llm", "gpt2")
    world.folder(at / "base", "gpt2")
    rows = [
        {"prompt": f"the {WORDS[i % 11]} {WORDS[(3 * i) % 11]}",
         "answer": f"{SECRET if i < 6 else WORDS[i % 7]} dog {i}", "who": f"person-{i // 6}"}
        for i in range(24)
    ]  # fmt: skip
    world.lines(at / "qa.jsonl", rows)
    world.lines(at / "apart.jsonl", [{"prompt": f"the {w}", "answer": "lazy dog"} for w in WORDS[:6]])
    return at


def said(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main([str(a) for a in argv])
    got = capsys.readouterr()
    return code, got.out, got.err


def begun(place: Path, ledger: str, *more: str) -> list[object]:
    return [
        "ledger", "init", ledger, place / "llm", "--data", "qa.jsonl", "--heldout", "apart.jsonl", "--length", "24",
        "--window", "0", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_request_after_request_through_the_command_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNWEAVE_PROGRESS", "0")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    based = ["--base", "base", "--epochs", "2", "--lr", "1e-2", "--batch", "4"]
    for ledger in (a, b):
        code, out, err = said(capsys, *begun(place, ledger, *based))
        assert code == 0
        assert "24 training examples" in out
        assert "note: qa.jsonl: 24 sequences" in err
    monkeypatch.chdir(tmp_path)  # what was named is found again from anywhere

    _, out, err = said(capsys, "ledger", "request", a, "--where", "who=person-0")
    assert "r-00001, entry 3: 6 examples" in out, err
    code, out, _ = said(capsys, "forget", "--ledger", a)
    assert code == 0
    assert "r-00001" in out
    _, out, _ = said(capsys, "ledger", "request", a, "--where", "who=person-0")
    assert "A repetition of r-00001 (entry 3), which is served" in out
    said(capsys, "ledger", "request", a, "--where", "who=person-1")
    assert said(capsys, "ledger", "serve", a)[0] == 0
    assert said(capsys, "ledger", "verify", a)[1] == "Nothing is wrong.\n"

    bundle = json.loads((tmp_path / "a" / "evidence" / "r-00002" / "bundle.json").read_text())
    (made,) = bundle["models"]
    assert (made["method"], made["level"]) == ("retrain", "E4")
    entries = list(Ledger(a).log.entries())
    assert [e.body["without"] for e in entries if e.kind == "model"] == [
        [], ["r-00001"], ["r-00001", "r-00002"]
    ]  # fmt: skip
    # one after the other leaves what both at once do, so the first stayed out of the second
    for who in ("person-1", "person-0"):
        said(capsys, "ledger", "request", b, "--where", f"who={who}")
    assert said(capsys, "ledger", "serve", b)[0] == 0
    (one,), (both,) = (Ledger(x).state().in_use() for x in (a, b))
    assert one.digest == both.digest
    # no text of hers in the ledger: not in evidence, nor in the runs' reports
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file() and file.suffix not in (".safetensors", ".db"):
            assert SECRET.encode() not in file.read_bytes(), file
    model = tmp_path / "a" / "serving" / "main"
    assert "language model" in (model / "README.md").read_text()
    record = read_deleted(model)
    assert record is not None
    assert len(record.gone) == 12


def test_without_a_base_nothing_is_released_and_somebody_may_answer_for_it(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("UNWEAVE_PROGRESS", "0")
    a = str(tmp_path / "a")
    code, _, err = said(capsys, *begun(place, a))
    assert "Without the model that it was fine-tuned from (--base)" in err
    said(capsys, "ledger", "request", a, "--where", "who=person-2")
    code, out, _ = said(capsys, "ledger", "serve", a)
    assert code == 3
    assert "npo: inconclusive" in out
    assert "name the model that it was fine-tuned from (--base)" in out
    assert Ledger(a).state().requests["r-00001"].status == "open"
    assert verify(Ledger(a)) == []


def test_refuses_at_the_door(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    a = str(tmp_path / "a")
    from unweave.cli import ledger

    bad: Sequence[tuple[Sequence[object], str]] = (
        (begun(place, a, "--output", "lora"), "hands out whole folders"),
        (["ledger", "init", a, place / "llm", "--data", "qa.jsonl"], "no text is held out"),
        (["ledger", "init", a, "--heldout", "apart.jsonl"], "--heldout is for a language model's folder"),
    )
    for argv, message in bad:
        with pytest.raises(InputError, match=message):
            ledger.run([str(x) for x in argv[1:]])
    assert not Path(a).exists()


@dataclass(frozen=True)
class Edited:
    """An edit that a test makes of a function; not exact, as far as anybody can tell."""

    work: Callable[[nn.Module, Request[Any]], nn.Module]

    def apply(self, model: nn.Module, data: Request[Any], *, rng: torch.Generator) -> nn.Module:
        return self.work(model, data)


@dataclass(frozen=True)
class Says:
    """Finds what it is told to."""

    outcome: Any

    def audit(self, edited: Any, *, method: str = "", seconds: Any = None) -> Audit:
        return Audit(
            kind="language", method=method, verdict=Verdict(outcome=self.outcome, reason="it is said")
        )

    def decide(self, edited: Any) -> Decision:
        return Decision(verdict=Verdict(outcome=self.outcome, reason="it is said"), controls=(), rates=None)


@dataclass(frozen=True, kw_only=True)
class Watched(OfTexts):
    """Notes what is judged by what; an earlier request that is judged again came back."""

    cases: ClassVar[list[Case]] = []

    def judge(self, case: Case) -> Judge:
        self.cases.append(case)
        return Says("forgotten" if len(self.cases) < 3 else "not forgotten")


@pytest.mark.slow
def test_earlier_texts_are_judged_again_by_the_audit_of_language_models(place: Path, tmp_path: Path) -> None:
    subject = text_subject(
        place / "llm", place / "qa.jsonl", base=place / "base", epochs=1, lr=1e-2,
        files=TextFiles(heldout=place / "apart.jsonl", length=24),
    )  # fmt: skip
    watched = replace(subject, kind=Watched(folder=place / "llm"))
    Watched.cases.clear()
    ledger = Ledger.init(tmp_path / "ledger")
    ledger.models.add("main", watched)

    def nudged(model: nn.Module, data: Request[Any]) -> nn.Module:
        with torch.no_grad():
            next(iter(model.parameters())).mul_(1.001)
        return model

    def served(who: str) -> Any:
        ledger.request(Deletion(subject=watched, where=f"who={who}"))
        return ServeJob(
            ledger=ledger, subjects={"main": watched}, edits={"nudged": Edited(nudged)}, oracles=4, holders=4,
            at_once=True, jobs=1, cache=tmp_path / "cache",
        ).run()  # fmt: skip

    first = served("person-0")
    assert (first.level, first.models[0]["outcome"]) == ("E2", "forgotten")
    second = served("person-1")
    assert [(r["request"], r["outcome"], r["examples"]) for r in second.relapse] == [
        ("r-00001", "not forgotten", 6)
    ]  # fmt: skip
    assert "r-00001 came back; so it was trained from scratch" in second.models[0]["why"]
    own, again = Watched.cases[1], Watched.cases[2]
    everything = [e["input_ids"].tolist() for e in subject.train.examples]  # type: ignore[attr-defined]

    def of(case: Case, part: str) -> list[list[int]]:
        data = getattr(case.request, part)
        return [data.examples[i]["input_ids"].tolist() for i in range(len(data))]

    assert (of(own, "forget"), of(own, "retain")) == (everything[6:12], everything[12:])
    assert (of(again, "forget"), of(again, "retain")) == (everything[:6], everything[12:])
    assert all(not c.shown for c in [ledger_kind(ledger, watched)])
    # trained on all of it, and on what is left
    rest = subject.without(range(12))
    for models, data, seed in ((again.oracles, rest, 1_000_000), (again.holders, subject, 2_000_001)):
        wanted = subject.require_recipe("").build(data.train, rng=seeded(seed)).state_dict()
        assert all(torch.equal(v, wanted[n]) for n, v in models[0].state_dict().items())


def ledger_kind(ledger: Ledger, subject: Subject) -> OfTexts:
    kind: Kind = opened(ledger.state().in_use()[0], ledger, {"main": subject}).kind
    assert isinstance(kind, OfTexts)
    return kind


@pytest.mark.slow
def test_what_was_trained_from_a_model_begins_at_its_new_version(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def subject(model: Path, base: Path) -> Subject:
        return text_subject(
            model, place / "qa.jsonl", base=base, epochs=1, lr=1e-2,
            files=TextFiles(heldout=place / "apart.jsonl", length=24),
        )  # fmt: skip

    child, other = world.folder(tmp_path / "child", "gpt2"), world.model("gpt2")
    with torch.no_grad():
        other.get_parameter("transformer.ln_f.weight").mul_(0.5)
    other.save_pretrained(child)
    subjects = {"main": subject(place / "llm", place / "base"), "child": subject(child, place / "llm")}
    ledger = Ledger.init(tmp_path / "ledger")
    ledger.models.add("main", subjects["main"])
    with pytest.raises(InputError, match="child was trained from main.*--parent main"):
        ledger.models.add("child", subjects["child"])
    ledger.models.add("child", subjects["child"], parent="main")
    began = list[Path]()
    network = TransformersRecipe._network
    monkeypatch.setattr(
        TransformersRecipe, "_network", lambda self: (began.append(Path(self.base)), network(self))[1]
    )
    for who in ("person-0", "person-1"):
        ledger.request(Deletion(subject=subjects["main"], where=f"who={who}"))
        began.clear()
        found = ServeJob(ledger=ledger, subjects=subjects, at_once=True, jobs=1).run()
        main, below = found.models
        assert (main["level"], below["level"], below["step"]) == ("E4", "E4", "make anew")
        assert "from the version of main in use" in below["why"]
        new = next(v for v in ledger.state().in_use() if v.name == "main")
        assert began[-1] == ledger.models.place(new)
        assert place / "llm" not in began
    assert verify(ledger) == []


def test_a_rise_of_perplexity_is_told(place: Path) -> None:
    subject = text_subject(
        place / "llm", place / "qa.jsonl", files=TextFiles(heldout=place / "apart.jsonl", length=24)
    )
    old, new = subject.read(place / "llm"), subject.read(place / "llm")
    assert lost(subject, old, new) == []
    with torch.no_grad():
        new.get_parameter("transformer.ln_f.weight").mul_(40)
    (told,) = lost(subject, old, new)
    assert "its perplexity on held-out texts rose from" in told
