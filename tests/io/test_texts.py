from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import causal_world as world
from unweave.errors import InputError
from unweave.io import texts as module
from unweave.io.texts import read_sequences
from unweave.tasks import perplexity
from unweave.tasks.language import CausalLM


@pytest.fixture(scope="module")
def tok() -> Any:
    return world.tokenizer()


def test_running_text_in_windows(tok: Any, tmp_path: Path) -> None:
    file = world.running(tmp_path / "a.txt", 20)
    ids = tok(file.read_text())["input_ids"]
    found = read_sequences(file, tok, 16, batch_size=4)
    windows = torch.cat([b["input_ids"] for b in found.data.batches()])
    n = len(ids) // 16
    assert windows.flatten().tolist() == ids[: n * 16]
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert found.tokens == 15 * n
    assert found.notes == (
        f"a.txt: {n} windows of 16 tokens, one every 16; {15 * n} tokens are predicted, {len(ids) - 16 * n} at the end "
        "are left out.",
    )
    with pytest.raises(IndexError):
        found.data.examples[n]


def test_overlapping_windows_predict_each_token_once(tok: Any, tmp_path: Path) -> None:
    file = world.running(tmp_path / "a.txt", 20)
    found = read_sequences(file, tok, 16, stride=5)
    seen: dict[int, int] = {}
    for k in range(len(found.data)):
        example = found.data.examples[k]
        for i in range(1, 16):
            if example["labels"][i] != -100:
                assert example["labels"][i] == example["input_ids"][i]
                seen[5 * k + i] = seen.get(5 * k + i, 0) + 1
    assert set(seen.values()) == {1}
    assert sorted(seen) == list(range(1, found.tokens + 1))


def test_a_long_text_is_tokenized_block_by_block(
    tok: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.running(tmp_path / "a.txt", 30)
    whole = read_sequences(file, tok, 8).data.examples.tokens
    monkeypatch.setattr(module, "_BLOCK", 100)
    assert len(list(module._blocks(file))) >= 10
    assert torch.equal(read_sequences(file, tok, 8).data.examples.tokens, whole)


def test_lines_are_padded_and_padding_and_prompts_do_not_count(tok: Any, tmp_path: Path) -> None:
    rows = [
        {"text": "the quick brown fox jumps over", "id": "a", "who": "x"},
        {"prompt": "the fox", "answer": "runs away.", "id": "b", "n": 3},
        {"text": "dog", "id": "c"},
        {"text": "", "id": "d"},
    ]
    found = read_sequences(world.lines(tmp_path / "a.jsonl", rows), tok, 32)
    (batch,) = found.data.batches()
    task = CausalLM()
    first = tok(rows[0]["text"])["input_ids"]
    prompt = [1, *tok("the fox\n", add_special_tokens=False)["input_ids"]]
    answer = [*tok("runs away.", add_special_tokens=False)["input_ids"], 2]
    assert batch["input_ids"][1].tolist()[: len(prompt + answer)] == prompt + answer
    counted = [len(first) - 1, len(answer), len(tok("dog")["input_ids"]) - 1]
    assert task.counted(batch).sum(1).tolist() == counted
    assert task.present(batch).sum(1).tolist() == [counted[0] + 1, len(prompt + answer), counted[2] + 1]
    assert found.tokens == sum(counted)
    assert found.ids == ["a", "b", "c"]
    assert found.columns == {"who": ["x", "", ""], "n": ["", "3", ""]}
    assert found.notes[1] == "1 texts of a.jsonl have no token to predict and are left out."

    # the same perplexity as text by text, each alone and unpadded
    net = world.model().double()
    total = sum(
        float((net(b["input_ids"]).logits[:, :-1].log_softmax(-1).gather(2, b["input_ids"][:, 1:, None])[..., 0]
               * task.counted(b)).sum().detach())
        for b in ({k: v[None] for k, v in example.items()} for example in found.data.examples)
    )  # fmt: skip
    expected = torch.exp(torch.tensor(-total / found.tokens, dtype=torch.float64))
    assert perplexity(net, found.data) == pytest.approx(float(expected), rel=1e-9)


def test_long_lines_are_cut(tok: Any, tmp_path: Path) -> None:
    long = world.SENTENCE * 4
    rows = [{"text": long}, {"prompt": "the fox", "answer": long}, {"prompt": long, "answer": "dog"}]
    found = read_sequences(world.lines(tmp_path / "a.jsonl", rows), tok, 16)
    ids = tok(long)["input_ids"]
    pieces = [ids[i : i + 16] for i in range(0, len(ids), 16)]
    assert [e["input_ids"].tolist() for e in found.data.examples][: len(pieces)] == pieces
    assert len(found.data) == len(pieces) + 1
    assert found.notes[1:] == (
        "3 texts of a.jsonl are longer than 16 tokens and were cut.",
        "1 texts of a.jsonl have no token to predict and are left out.",
    )


def test_a_chat_template_puts_prompt_and_answer_together(tmp_path: Path) -> None:
    tok = world.tokenizer(chat=True)
    found = read_sequences(world.prompts(tmp_path / "a.jsonl", 1), tok, 32, prompted=True)
    row = json.loads((tmp_path / "a.jsonl").read_text())
    example = found.data.examples[0]
    unread = example["labels"] == -100
    assert tok.decode(example["input_ids"][unread]) == f"<s>{row['prompt']}. "
    assert tok.decode(example["input_ids"][~unread]) == f"{row['answer']}</s>"
    tok.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}dog{% endif %}"
    )
    with pytest.raises(InputError, match="chat template the prompt does not begin the text"):
        read_sequences(tmp_path / "a.jsonl", tok, 32)


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("a.txt", "", {}, "holds no text"),
        ("a.txt", " \n\n", {}, "holds no text"),
        ("a.txt", "dog", {}, r"has \d tokens; a window takes 16. Give more text, or a smaller --length"),
        ("a.txt", b"\xff\xfe\x00", {}, "cannot read the text in .*UTF-8"),
        ("a.txt", "dog", {"length": 1}, "at least 2 tokens"),
        ("a.txt", "dog", {"stride": 17}, "got length 16 and stride 17"),
        ("a.csv", "dog", {}, r"read from .txt or .jsonl files; got .*a.csv"),
        ("b.txt", None, {}, "there is no file"),
        ("a.jsonl", "", {}, "no text with a token to predict"),
        ("a.jsonl", '{"text": "dog"', {}, "line 1, is no JSON"),
        ("a.jsonl", '\n{"words": "dog"}', {}, r'line 2, must be {"text": ...} .* it has words'),
        ("a.jsonl", "[1]", {}, "it has a list"),
        ("a.jsonl", '{"prompt": "dog", "answer": 3}', {}, "with strings"),
        ("a.jsonl", '{"text": "dog"}', {"stride": 4}, "stride=4 would do nothing"),
        ("a.jsonl", '{"text": "dog"}', {"prompted": True}, "line 1, must be .* a text that is not split"),
    ],
)
def test_refuses(tok: Any, tmp_path: Path, name: str, content: Any, more: Any, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_sequences(tmp_path / name, tok, **{"length": 16, **more})
