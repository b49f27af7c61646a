"""`unweave condense`: folder in, folder out, from the command line; and what leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.moe_models import moe
from unweave.cli import main
from unweave.errors import InputError
from unweave.experts import CDMoE
from unweave.io.transformers_folder import load_model
from unweave.jobs import CondensedRun, CondenseJob
from unweave.models.moe import Condensed

TEXTS = ["a b c d e f", "b c d e", "c d e f g h", "e f g a", "g a b c d", "d d e e f"] * 4


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model's folder with a tokenizer of words, and calibration texts."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    where = tmp_path_factory.mktemp("moe")
    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefgh"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")
    model = moe("deepseek-v2")
    model.save_pretrained(where / "model")
    fast.save_pretrained(where / "model")
    texts = where / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS), encoding="utf-8")
    return where / "model", texts


@pytest.mark.slow
def test_folder_in_folder_out(
    given: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, texts = given
    command = ["condense", str(folder), "--calibration", str(texts), "--memory", "0.8", "--cd-moe.k", "1"]
    assert main([*command, "--recover", "light", "--out", str(tmp_path / "run")]) == 0
    done = CondensedRun.read(tmp_path / "run")
    before, after, _ = done.figures["parameters"]
    assert after <= 0.8 * before
    assert done.figures["parameters a token uses"][1] < after
    assert {name.split()[0] for name in done.beside} == {"layer", "pruning"}
    assert "condensed: shared expert and experts" in " ".join(done.layers.values())
    assert len(done.steps) == 1
    model = load_model(done.model, "AutoModelForCausalLM")
    assert sum(isinstance(m, Condensed) for m in model.modules()) == 1
    assert (done.model / "tokenizer.json").is_file()
    assert (done.model / "generation_config.json").is_file()
    page = done.page.read_text(encoding="utf-8")
    assert "Baselines at no more memory" in page
    told = capsys.readouterr().out
    assert "held-out perplexity" in told
    assert "read back" in told


@pytest.mark.slow
def test_a_pruned_folder_is_read_by_transformers_alone(given: tuple[Path, Path], tmp_path: Path) -> None:
    import transformers

    folder, texts = given
    command = [
        "condense",
        str(folder),
        "--calibration",
        str(texts),
        "--method",
        "reap",
        "--expert-pruning.experts",
        "4",
    ]
    assert main([*command, "--no-baselines", "--out", str(tmp_path / "run"), "--json"]) == 0
    done = CondensedRun.read(tmp_path / "run")
    assert "from_pretrained reads it" in done.notes[0]
    assert not done.beside
    plain = transformers.AutoModelForCausalLM.from_pretrained(done.model)
    assert plain.config.n_routed_experts == 4
    assert all("experts kept" in told for told in done.layers.values())


@pytest.mark.slow
def test_perplexity_and_active_parameters_are_their_definitions(
    given: tuple[Path, Path], tmp_path: Path
) -> None:
    folder, texts = given
    done = CondenseJob(folder=folder, calibration=texts, method=CDMoE(layers=1), baselines=False).run(
        tmp_path / "run"
    )
    model = load_model(folder, "AutoModelForCausalLM")
    total, tokens = 0.0, 0
    for text in TEXTS[9::10]:
        ids = torch.tensor([[4 + "abcdefgh".index(c) for c in text.split()]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        total -= float(logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
        tokens += ids.shape[1] - 1
    assert done.figures["held-out perplexity"][0] == pytest.approx(
        float(torch.tensor(total / tokens).exp()), rel=1e-5
    )
    experts = 2 * 8 * 3 * 12 * 16  # layers, experts, matrices of 12 x 16
    size = sum(p.numel() for p in model.parameters())
    assert done.figures["parameters a token uses"][0] == size - experts * 6 / 8


def test_bad_input_leaves_no_trace(given: tuple[Path, Path], tmp_path: Path) -> None:
    folder, texts = given
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "a"}\n' * 20, encoding="utf-8")
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "a b c"}\n' * 3, encoding="utf-8")
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"words": "a b"}\n', encoding="utf-8")
    for settings, told in (
        ({"method": CDMoE(layers=3)}, "layers must be at most 2"),
        ({"method": CDMoE(layers=1, k=9)}, "k must be at most 8"),
        ({"method": CDMoE(memory=0.01)}, "cannot be reached"),
        ({"calibration": one}, "no text with a token to predict"),
        ({"calibration": few}, "so 10 are needed"),
        ({"calibration": odd}, "line 1, must be"),
        ({"calibration": tmp_path / "none.jsonl"}, "there is no file"),
        ({"folder": tmp_path}, "is no transformers folder"),
    ):
        with pytest.raises(InputError, match=told):
            CondenseJob(**{"folder": folder, "calibration": texts, **settings}).run(tmp_path / "run")  # type: ignore[arg-type]
        assert not (tmp_path / "run").exists()
    assert main(["condense", str(folder), "--calibration", str(texts), "--method", "wanda"]) == 2
    assert (
        main(["condense", str(folder), "--calibration", str(texts), "--method", "naee", "--recover", "light"])
        == 2
    )
