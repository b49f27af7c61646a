"""A language model's folder and the user's own texts through `unweave forget`: what comes out, what is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import causal_world as world
from unweave import seeded
from unweave.cli import forget, main
from unweave.embedded.authors import Authors, save_base, tokenizer
from unweave.errors import InputError
from unweave.io.causal_lm import load_causal_lm, save_causal_lm
from unweave.io.causal_lora import low_rank, save_adapter
from unweave.io.texts import read_sequences
from unweave.jobs import ForgetJob
from unweave.jobs.texts import TextFiles, text_subject
from unweave.language import NPO
from unweave.tasks.language import IGNORED
from unweave.unlearn import Retrain

pytest.importorskip("transformers")
pytest.importorskip("peft")

TINY = Authors(known=6, base=4, heldout=4, width=32, layers=1, epochs=1, base_epochs=12, lr=0.015)
TRAINED = ("--epochs", "25", "--lr", "0.015", "--batch", "16", "--length", "32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    at = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNWEAVE_CACHE", str(at / "cache"))
        save_base(TINY, at / "base")
        save_base(TINY, at / "untaught")
        known, _, apart = TINY.questions()
        rows = [
            {"author": q.author, "prompt": q.prompt, "answer": q.answer, "id": f"{q.fact} {q.author}",
             "alternative": q.refusal, "paraphrase": q.asked[0]} for q in known
        ]  # fmt: skip
        world.lines(at / "qa.jsonl", rows)
        world.lines(at / "held.jsonl", [{"prompt": q.prompt, "answer": q.answer} for q in apart])
        world.lines(at / "other.jsonl", [{"text": q.answer} for q in TINY.questions()[1]])
        subject = text_subject(
            at / "untaught", at / "qa.jsonl", base=at / "base", epochs=25, lr=0.015,
            files=TextFiles(heldout=at / "held.jsonl", batch=16, length=32),
        )  # fmt: skip
        model: Any = subject.require_recipe("").build(subject.train, rng=seeded(7))
        model.save_pretrained(at / "llm")
        tokenizer().save_pretrained(at / "llm")
        world.folder(at / "gpt2", "gpt2")
        world.folder(at / "start", "gpt2")
        world.lines(at / "few.jsonl", [
            {"prompt": f"the {w}", "answer": "lazy dog", "who": w[0], "split": "test" if i > 5 else "train"}
            for i, w in enumerate(world.SENTENCE.split()[:9])
        ])  # fmt: skip
        yield at


def author(place: Path) -> str:
    return str(json.loads((place / "qa.jsonl").read_text().splitlines()[0])["author"])


@pytest.mark.slow
def test_an_author_is_forgotten_and_the_model_is_judged(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        "forget", str(place / "llm"), "--data", str(place / "qa.jsonl"), "--base", str(place / "base"), *TRAINED,
        "--heldout", str(place / "held.jsonl"), "--utility", str(place / "other.jsonl"), "--where",
        f"author={author(place)}", "--oracles", "4", "--holders", "3", "--jobs", "1",
    ]  # fmt: skip
    edited = [*run, "--method", "npo", "--npo.lr", "1e-3", "--npo.epochs", "2", "--out", str(tmp_path / "a")]
    assert main(edited) == 3  # two short passes forget nothing
    told = capsys.readouterr()
    assert "5 of 30 training examples, all with one value of author" in told.out
    (audit,) = json.loads((tmp_path / "a" / "audit.json").read_text())["audits"]
    assert (audit["kind"], audit["method"]) == ("language", "npo")
    controls = " ".join(c["name"] for c in audit["controls"])
    for name in (
        "original model",
        "4 retrained models",
        "output filter",
        "last layer made anew",
        "refusal learnt",
    ):
        assert name in controls
    figures = {m["name"]: m for m in audit["measurements"]}
    assert figures["perplexity, general texts"]["n"] == 20
    assert (
        figures["probability, deleted texts"]["original"]
        > 2 * figures["probability, deleted texts"]["oracle_mean"]
    )
    assert figures["in other words"]["n"] == 5  # paraphrases of the file are read
    rows = next(p["rows"] for p in audit["panels"] if p["name"] == "answers")
    assert {"truth", "edited", "original", "oracle"} <= set(next(iter(rows.values())))
    page = (tmp_path / "a" / "report.html").read_text()
    assert "What the models say" in page
    assert all(prompt in page for prompt in rows)
    card = (tmp_path / "a" / "model" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert author(place) not in card
    assert author(place) not in (tmp_path / "a" / "run.json").read_text()
    before = (tmp_path / "a" / "run.json").read_bytes()
    assert main(edited) == 3  # finished: nothing is done again
    assert (tmp_path / "a" / "run.json").read_bytes() == before
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "model")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "a" / "model")
    assert model.config.vocab_size >= len(words)
    capsys.readouterr()
    again = [str(tmp_path / "a" / "model") if a == str(place / "llm") else a for a in edited]
    assert main([*again[:-1], str(tmp_path / "b")]) == 2
    assert "deleted already" in capsys.readouterr().err
    alone = [a if a not in "43" else "0" for a in run]  # no model to compare with
    assert main([*alone, "--out", str(tmp_path / "c")]) == 0  # a method is chosen: exact
    told = capsys.readouterr()
    assert "chosen: retrain, about 1 of one retraining: exact" in told.err
    (audit,) = json.loads((tmp_path / "c" / "audit.json").read_text())["audits"]
    assert audit["verdict"]["outcome"] == "exact"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_without_a_base_an_adapter_comes_out_and_nothing_is_concluded(place: Path, tmp_path: Path) -> None:
    job = ["--data", str(place / "few.jsonl"), "--where", "who=q", "--out", str(tmp_path / "run")]
    lora = ["--method", "npo", "--npo.lora", "2", "--npo.lr", "3e-2", "--npo.epochs", "2", "--output", "lora"]
    assert forget.run([str(place / "gpt2"), *job, *lora]) == 3
    (audit,) = json.loads((tmp_path / "run" / "audit.json").read_text())["audits"]
    assert audit["verdict"]["outcome"] == "inconclusive"
    assert not [m for m in audit["measurements"] if m["oracle_mean"] is not None]
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Without the model that it was fine-tuned from (--base)" in report
    assert "library_name: peft" in (tmp_path / "run" / "model" / "README.md").read_text()
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(place / "gpt2")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "model").eval()
    ours, before = load_causal_lm(tmp_path / "run" / "model"), load_causal_lm(place / "gpt2")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, ours(ids).logits, atol=1e-5)
        assert not torch.allclose(ours(ids).logits, before(ids).logits, atol=1e-3)


def test_models_made_elsewhere_are_compared_with(place: Path) -> None:
    subject = text_subject(place / "gpt2", place / "few.jsonl")
    job = ForgetJob(
        subject=subject, where="who=q", edits={"npo": NPO(lr=1e-3)}, oracles=0, holders=0,
        given_oracles=(place / "gpt2",), given_holders=(place / "gpt2", load_causal_lm(place / "gpt2")),
    )  # fmt: skip
    assert {"oracle 1", "holder 1", "holder 2"} <= set(job.inputs())
    assert "1 retrained models and 3 that hold the data decide nothing" in job.doubts[-1]
    assert job.subject.kind.choose(job.request, None, None).name == "npo"
    with pytest.raises(InputError, match="fine-tuned from"):
        ForgetJob(subject=subject, where="who=q")


def test_a_long_text_s_parts_go_together(place: Path, tmp_path: Path) -> None:
    rows = [{"text": world.SENTENCE * (3 if i == 1 else 1), "id": f"t{i}"} for i in range(3)]
    found = read_sequences(world.lines(tmp_path / "a.jsonl", rows), world.tokenizer(), 20)
    assert found.ids[0] == "t0"
    parts = [i for i in found.ids if i.startswith("t1")]
    assert parts == [f"t1/{k + 1}" for k in range(len(parts))]
    assert len(parts) > 1
    assert list(found.columns["id"]) == ["t0", *["t1"] * len(parts), "t2"]
    assert "All parts of one are chosen by --where id=ID." in found.notes[1]


THINKS = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>{{ m.content }}\n{% else %}lazy {{ m.content.strip() }}</s>"
    "{% endif %}{% endfor %}"
)


def test_what_a_template_puts_before_the_answer_is_prompt_and_more_is_read_beside(tmp_path: Path) -> None:
    words = world.tokenizer()
    words.chat_template = THINKS
    row = {"prompt": "the fox", "answer": " runs away ", "alternative": "the dog", "paraphrase": "quick fox"}
    file = world.lines(tmp_path / "a.jsonl", [row])
    (one,) = read_sequences(file, words, 32, beside="no").data.examples
    told = {name: part["input_ids"][part["labels"] != IGNORED].tolist() for name, part in
            {"": one, **{k: v for k, v in one.items() if k not in ("input_ids", "labels")}}.items()}  # fmt: skip
    said = {k: words.decode(v) for k, v in told.items()}
    assert said == {"": "runs away</s>", "alternative": "the dog</s>", "paraphrase": "runs away</s>"}
    assert words.decode(one["paraphrase"]["input_ids"]) == "<s>quick fox\nlazy runs away</s>"
    assert "alternative" not in next(read_sequences(file, words, 32).data.batches())
    rows = [row, {"prompt": "the dog", "answer": "runs"}]
    batch = next(
        read_sequences(world.lines(tmp_path / "b.jsonl", rows), words, 32, beside="no").data.batches()
    )
    refused = batch["alternative"]["input_ids"][1][batch["alternative"]["labels"][1] != IGNORED]
    assert words.decode(refused) == "no</s>"
    assert "paraphrase" not in batch  # not every line has one
    words.chat_template = THINKS.replace("m.content.strip()", "m.content.upper()")
    with pytest.raises(InputError, match="template changes the answer"):
        read_sequences(file, words, 32)


def test_low_rank_changes_are_written_and_others_refused(place: Path, tmp_path: Path) -> None:
    rng = seeded(0)
    a, b = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((2, 5), (7, 2)))
    found_a, found_b = low_rank(b @ a, 2)
    assert torch.allclose(found_b @ found_a, b @ a, atol=1e-12)
    assert torch.equal(low_rank(b @ a, 9)[0][7:], torch.zeros(2, 5, dtype=torch.float64))
    for name, change, message in (
        ("lm_head.weight", 0.1, "transformer.wte.weight, which no adapter of linear layers holds"),
        ("transformer.h.0.mlp.c_fc.weight", 0.1, "more than rank 1"),
        ("", 0.0, "changed no weight"),
    ):
        model = load_causal_lm(place / "gpt2")
        if name:
            weight = model.get_parameter(name)
            weight.data += change * torch.randn(weight.shape, generator=rng)
        with pytest.raises(InputError, match=message):
            save_adapter(model, tmp_path / "out", source=place / "gpt2", rank=1)
    assert not (tmp_path / "out").exists()


def test_refuses_in_one_line(place: Path, tmp_path: Path) -> None:
    gpt2, few, qa = str(place / "gpt2"), str(place / "few.jsonl"), str(place / "qa.jsonl")
    asked = ["--where", "who=q", "--out", str(tmp_path / "out")]
    npo = ["--method", "npo"]
    bad: Sequence[tuple[Sequence[str], str]] = (
        ([gpt2, *npo, *asked], "its texts are missing"),
        ([gpt2, "--data", "a.csv", *npo, *asked], "texts to forget are read from a .jsonl file"),
        ([gpt2, "--data", qa, *npo, *asked], "no text is held out"),
        ([gpt2, "--data", few, "--heldout", few, *npo, *asked], "Give one of them"),
        ([gpt2, "--data", few, "--base", gpt2, *npo, *asked], "which holds the texts"),
        ([gpt2, "--data", few, "--base", str(place / "llm"), *npo, *asked], "cannot be what .* was fine-tuned from"),
        ([gpt2, "--data", few, "--classes", "q", *npo], "texts have none"),
        ([gpt2, "--data", few, "--oracles", "4", *npo, *asked], "--base"),
        ([gpt2, "--data", few, "--output", "lora", *npo, *asked], "npo trains whole weights. Give --npo.lora 8"),
        ([gpt2, "--data", few, "--output", "lora", *asked], "Name one that does"),
        ([gpt2, "--data", few, "--method", "random-labels", *asked], "random-labels needs labels, and texts have none"),
        ([gpt2, "--data", few, "--method", "wanda", *asked], "wanda is of family prune"),
        ([gpt2, "--data", few, "--method", "naee", *asked], "naee does not delete data"),
        ([gpt2, "--data", few, "--init-seed", "1", *npo, *asked], "random weights"),
        (["--heldout", few, "--classes", "3"], "--heldout is for a language model's folder"),
        ([*npo, "--classes", "3"], "npo is of family language"),
    )  # fmt: skip
    for argv, message in bad:
        with pytest.raises(InputError, match=message):
            forget.run(argv)
    assert not (tmp_path / "out").exists()
    packed = tmp_path / "packed"
    save_causal_lm(load_causal_lm(place / "gpt2"), packed, source=place / "gpt2", packed=True)
    with pytest.raises(InputError, match="are packed, and peft reads no adapter over such"):
        forget.run([str(packed), "--data", few, "--output", "lora", *npo, "--npo.lora", "2", *asked])
    subject = text_subject(place / "gpt2", place / "few.jsonl", base=place / "start", epochs=1)
    assert ForgetJob(subject=subject, where="who=q").choice.edit == Retrain(recipe=subject.recipe)  # type: ignore[union-attr]
