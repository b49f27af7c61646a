"""Text classifiers of transformers with csv and jsonl: read, padded, edited, and written as transformers reads them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import one_line
from unweave import Data, seeded
from unweave.errors import InputError
from unweave.io.text_folder import is_text_data, load_texts, tokenizer_files
from unweave.jobs import ForgetJob, PruneJob, open_subject
from unweave.jobs.opened import Folder
from unweave.prune import Channel, Prune
from unweave.tasks import predict, read_labels
from unweave.unlearn import Retrain

transformers = pytest.importorskip("transformers", reason="the vision extra is not installed")

WORDS = "good fine great bad poor dull film plot the a was".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(folder: Path, names: tuple[str, ...] = ("neg", "pos"), **more: Any) -> Path:
    vocabulary = {word: at for at, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = transformers.BertTokenizerFast(vocab=vocabulary)
    named = (
        {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}} if names else {}
    )
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12, **{**named, **more},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(count: int = 24, labels: tuple[str, ...] = ("neg", "pos")) -> list[dict[str, str]]:
    drawn = torch.randint(len(WORDS), (count, 6), generator=seeded(0))
    texts = [" ".join(WORDS[w] for w in line[: 2 + i % 5]) for i, line in enumerate(drawn)]
    return [
        {
            "id": f"t{i}", "text": text, "label": labels[i % len(labels)], "author": f"u{i // 4}",
            "split": "train" if i < 16 else "test",
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip


def write(file: Path, lines: list[dict[str, Any]]) -> str:
    if file.suffix == ".jsonl":
        file.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
        return str(file)
    with file.open("w", newline="", encoding="utf-8") as to:
        writer = csv.DictWriter(to, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return str(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("text") / "bert")


@pytest.mark.parametrize("name", ["texts.csv", "texts.jsonl"])
def test_a_file_with_a_split(folder: Path, tmp_path: Path, name: str) -> None:
    spec = write(tmp_path / name, rows())
    assert is_text_data(spec)
    texts = load_texts(spec, folder, batch_size=5)
    assert (len(texts.train), len(texts.heldout)) == (16, 8)
    assert texts.class_names == ("neg", "pos")
    assert read_labels(texts.train).tolist() == [i % 2 for i in range(16)]
    assert list(texts.ids) == [f"t{i}" for i in range(16)]
    assert texts.columns["author"][5] == "u1"
    assert texts.notes == ()


def test_padding_changes_no_answer(folder: Path, tmp_path: Path) -> None:
    texts = load_texts(write(tmp_path / "texts.csv", rows()), folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    alone = Data(texts.train.examples, texts.train.task, 1, texts.train.collate)
    assert torch.allclose(predict(model, texts.train), predict(model, alone), atol=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    wanted = model(**tokenizer(rows()[3]["text"], return_tensors="pt")).logits
    assert torch.allclose(predict(model, texts.train)[3], wanted[0].detach(), atol=1e-6)


def test_a_folder_of_files_and_line_breaks_in_texts(folder: Path, tmp_path: Path) -> None:
    lines = [{k: v for k, v in row.items() if k != "split"} for row in rows()]
    lines[0]["text"] = 'good,\n"film"\u2028plot'
    write(tmp_path / "train.csv", lines[:16])
    write(tmp_path / "test.csv", lines[16:])
    write(tmp_path / "validation.csv", lines[16:])
    texts = load_texts(str(tmp_path), folder)
    assert texts.train.examples.texts[0] == lines[0]["text"]  # type: ignore[attr-defined]
    assert "test.csv is held out; validation.csv is not read" in texts.notes[0]


def test_labels_by_number_and_of_models_without_names(folder: Path, tmp_path: Path) -> None:
    numbers = load_texts(
        write(tmp_path / "numbers.jsonl", [{**r, "label": i % 2} for i, r in enumerate(rows())]), folder
    )
    assert numbers.class_names == ("neg", "pos")
    assert read_labels(numbers.train).tolist() == [i % 2 for i in range(16)]
    shifted = bert(tmp_path / "shifted", ("1", "0"))
    swapped = load_texts(write(tmp_path / "swapped.csv", rows(labels=("0", "1"))), shifted)
    assert read_labels(swapped.train).tolist() == [1 - i % 2 for i in range(16)], "names come before numbers"
    unnamed = load_texts(
        write(tmp_path / "words.csv", rows(labels=("sad", "glad"))), bert(tmp_path / "plain", ())
    )
    assert unnamed.class_names == ("glad", "sad")
    assert read_labels(unnamed.train).tolist() == [1 - i % 2 for i in range(16)]


def test_texts_that_are_cut_are_counted(folder: Path, tmp_path: Path) -> None:
    lines = rows()
    lines[2]["text"] = "good " * 30
    texts = load_texts(write(tmp_path / "texts.csv", lines), folder)
    assert texts.notes == ("1 of 16 texts of train are longer than 12 tokens and were cut.",)


def test_pairs_of_texts(folder: Path, tmp_path: Path) -> None:
    lines = [{**row, "text_pair": "the film"} for row in rows()]
    texts = load_texts(write(tmp_path / "texts.csv", lines), folder)
    (batch,) = Data(texts.train.examples, texts.train.task, 16, texts.train.collate).batches()
    assert batch["token_type_ids"].sum(1).tolist() == [3] * 16


def without(column: str) -> Any:
    return lambda lines: [{k: v for k, v in row.items() if k != column} for row in lines]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("split"), "does not say what is held out. Give it a column `split`"),
        (without("label"), "has no column label; it has id, text, author, split"),
        (without("text"), "has no column text"),
        (lambda r: [{**x, "split": "train"} for x in r], r"must hold train and either .* it holds 'train' \(24\)"),
        (lambda r: [{**x, "split": "dev" if i > 20 else x["split"]} for i, x in enumerate(r)], r"'dev' \(3\)"),
        (lambda r: [{**x, "label": "odd" if i == 3 else x["label"]} for i, x in enumerate(r)], "does not know: odd. It knows neg, pos"),
        (lambda r: [{**x, "text": " " if i == 3 else x["text"]} for i, x in enumerate(r)], "1 rows of .* have no text or no label: rows 4"),
        (lambda r: [{**x, "label": ""} for x in r], "24 rows of .* have no text or no label: rows 1, 2, 3, 4, 5 ..."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_texts(write(tmp_path / "texts.csv", change(rows())), folder)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,label,split\na,b,neg,train\n", "row 1 of .* has 4 cells, its header 3"),
        ("a.csv", "text,text\na,b\n", "two columns of one name"),
        ("a.csv", "", "holds no text"),
        ("a.jsonl", '{"text": "a"\n', "line 1, is no JSON"),
        ("a.jsonl", "[1]\n", "line 1, must be an object"),
        ("a.jsonl", '{"text": "a", "label": "neg"}\n{"text": "b"}\n', "1 rows of .* have other columns"),
    ],
)
def test_files_that_cannot_be_read_are_named(
    folder: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load_texts(str(tmp_path / name), folder)


def test_folders_and_models_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    spec = write(tmp_path / "texts.csv", rows())
    (tmp_path / "half").mkdir()
    write(tmp_path / "half" / "train.csv", rows())
    for where, model, message in (
        (str(tmp_path / "absent.csv"), folder, "there is no file"),
        (str(tmp_path / "half"), folder, "has train.csv and no test.csv or validation.csv"),
        (
            spec,
            bert(tmp_path / "many", problem_type="multi_label_classification"),
            'task = "regression", "multi-label"',
        ),
    ):
        with pytest.raises(InputError, match=message):
            load_texts(where, model)
    bare = bert(tmp_path / "bare")
    for file in tokenizer_files(bare):
        (bare / file).unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        load_texts(spec, bare)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::unweave.jobs.UnsuitedWarning")
def test_a_text_classifier_is_edited_and_read_by_transformers(folder: Path, tmp_path: Path) -> None:
    subject = open_subject(str(folder), Folder(data=write(tmp_path / "texts.csv", rows()), epochs=1))
    job = ForgetJob(
        subject=subject, edits={"retrain": Retrain(recipe=subject.recipe)}, where="author=u1", oracles=1, holders=1, quick=True,
        jobs=1, cache=tmp_path / "cache",
    )  # fmt: skip
    done = job.run(tmp_path / "run")
    assert len(job.request.forget) == 4
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2
    written = transformers.AutoModelForSequenceClassification.from_pretrained(done.model).eval()
    assert torch.equal(predict(written, subject.heldout), predict(subject.read(done.model), subject.heldout))
    tokenizer = transformers.AutoTokenizer.from_pretrained(done.model)
    assert (
        tokenizer("good film")["input_ids"]
        == transformers.AutoTokenizer.from_pretrained(folder)("good film")["input_ids"]
    )
    with pytest.raises(InputError, match="PruneJob.onnx traces a model by its one input tensor"):
        PruneJob(subject=subject, method=Prune(pattern=Channel()), onnx=True)
