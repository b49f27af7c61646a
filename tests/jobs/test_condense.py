"""`unweave condense`: folder in, folder out, from the command line; and what leaves no trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.moe_models import moe
from unweave.cli import main
from unweave.errors import InputError
from unweave.experts import CDMoE
from unweave.io.loading import read_tokenizer
from unweave.io.transformers_folder import load_model
from unweave.jobs import CondensedRun, CondenseJob
from unweave.jobs.condense_figures import read_questions
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
    asked = tmp_path / "asked.jsonl"
    asked.write_text(
        '{"prompt": "a b c", "options": ["d", "h h"], "answer": "d"}\n{"prompt": "c", "options": ["a", "d"], "answer": 1}\n'
    )
    command += ["--options", str(asked)]
    assert main([*command, "--recover", "lora", "--out", str(tmp_path / "run")]) == 0
    done = CondensedRun.read(tmp_path / "run")
    before, after, _ = done.figures["parameters"]
    assert after <= 0.8 * before
    assert done.figures["parameters a token uses"][1] < after
    assert set(done.beside) == {"layer trimming", "pruning by REAP"}
    assert all(told["share of parameters"] <= after / before for told in done.beside.values())
    assert done.figures["questions answered right"][0] in (0.0, 50.0, 100.0)
    assert set(done.spread) == {f"tokens a second, batch {n}" for n in (1, 8, 32)}
    assert not any("spread" in name for name in done.figures), "it stands beside the number"
    condensed = next(i for i, told in enumerate(done.layers.values()) if "condensed" in told)
    gathered = list(done.distances.values())
    assert [g > 0 for g in gathered] == [i >= condensed for i in range(len(gathered))]
    assert "condensed: shared expert and experts" in " ".join(done.layers.values())
    assert len(done.steps) == 1
    model = load_model(done.model, "AutoModelForCausalLM")
    assert sum(isinstance(m, Condensed) for m in model.modules()) == 1
    assert (done.model / "tokenizer.json").is_file()
    assert (done.model / "generation_config.json").is_file()
    page = done.page.read_text(encoding="utf-8")
    assert "Baselines at no more memory" in page
    assert "Jensen-Shannon divergence of each decoder layer" in page
    assert " ± " in page
    told = capsys.readouterr().out
    assert " ± " in told
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
        "--recover",
        "distil",
    ]
    command += ["--expert-pruning.experts", "4"]
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


@pytest.mark.slow
def test_every_bad_input_is_one_clear_error_and_nothing_is_written(
    given: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    folder, texts = given
    grouped, dense, quantised = (tmp_path / name for name in ("grouped", "dense", "quantised"))
    for where in (grouped, dense, quantised):
        shutil.copytree(folder, where)
    moe("deepseek-v3", num_hidden_layers=2).save_pretrained(grouped)
    small = transformers.LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(small).save_pretrained(dense)
    config = json.loads((folder / "config.json").read_text())
    (quantised / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )
    empty, odd = tmp_path / "empty.jsonl", tmp_path / "odd.jsonl"
    empty.write_text("")
    odd.write_text('{"prompt": "a", "options": ["b"], "answer": 0}\n')
    at = [str(folder), "--calibration", str(texts)]
    for flags, told in (
        ([*at, "--cd-moe.layers", "3"], "at most 2"),
        ([*at, "--cd-moe.layers", "1", "--cd-moe.k", "9"], "at most 8"),
        ([*at, "--method", "reap", "--expert-pruning.experts", "9"], "to 8 experts"),
        ([*at, "--method", "reap", "--expert-pruning.experts", "1"], "from 2"),
        ([str(grouped), *at[1:], "--method", "reap", "--expert-pruning.experts", "5"], "multiple of 2"),
        ([*at, "--method", "uncurl", "--uncurl.experts", "8"], "nothing would be merged"),
        ([str(dense), *at[1:]], "needs a mixture of experts"),
        ([str(quantised), *at[1:]], "quantised"),
        ([at[0], at[1], str(empty)], "empty.jsonl"),
        ([*at, "--options", str(odd)], "line 1, must be"),
    ):
        assert main(["condense", *flags, "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert told in " ".join(error.split()), error
        assert "Traceback" not in error
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="has a setting recover of its own"):
        CondenseJob(folder=folder, calibration=texts, recover="lm")


def test_accuracy_takes_the_likeliest_option(given: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = given
    model = load_model(folder, "AutoModelForCausalLM")
    file = tmp_path / "asked.jsonl"
    options = ["d", "e f", "h", "c"]
    file.write_text(json.dumps({"prompt": "a b", "options": options, "answer": 0}) + "\n")
    asked = read_questions(file, read_tokenizer(folder), 32)
    sums = []
    for item in asked.data.examples:
        ids, labels = item["input_ids"], item["labels"]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        sums.append(sum(float(logits[t - 1, ids[t]]) for t in range(1, len(ids)) if labels[t] >= 0))
    best = int(torch.tensor(sums).argmax())
    for answer in range(4):
        file.write_text(json.dumps({"prompt": "a b", "options": options, "answer": answer}) + "\n")
        assert read_questions(file, read_tokenizer(folder), 32).accuracy(model) == float(answer == best)
