from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import Linear, Module

pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

from tests.contract import world
from unweave import Mask, seeded
from unweave.embedded.nets import ResNet
from unweave.errors import InputError, IntegrityError, MissingExtraError
from unweave.io.checkpoint import load_into, save_model
from unweave.io.onnx import export_onnx
from unweave.prune import NM, Channel, Prune, SparseGPT, Uniform, shrink


def run(path: Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.slow
def test_a_pruned_network_runs_in_onnx_runtime(tmp_path: Path) -> None:
    model = Prune(pattern=NM(2, 4)).apply(world.model(), world.points()[0], rng=seeded(0))
    save_model(model, tmp_path / "model", mask=Mask.of(model))
    loaded = load_into(world.network(), tmp_path / "model").eval()
    x = torch.randn(7, 8, generator=seeded(0))
    path = export_onnx(loaded, x, tmp_path / "model.onnx")
    for n in (1, 3, 7):
        with torch.no_grad():
            torch.testing.assert_close(run(path, x[:n]), model.eval()(x[:n]), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_network_with_channels_removed_runs_in_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    from unweave.embedded.digits import of_tensors
    from unweave.prune import Magnitude, Scope

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(8).eval()
    x = torch.randn(2, 3, 16, 16, generator=seeded(0))
    data = of_tensors(x, torch.tensor([0, 1]), classes=10)
    pruned = Prune(score=Magnitude(scope=Scope(last=False)), pattern=Channel(), budget=Uniform(0.5)).apply(
        model, data, rng=seeded(0)
    )
    shrunk = shrink(pruned, x[:1])
    save_model(shrunk.model, tmp_path / "small", structure=shrunk.structure)
    small = load_into(ResNet(8), tmp_path / "small").eval()
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    path = export_onnx(small, x, tmp_path / "small.onnx")
    with torch.no_grad():
        torch.testing.assert_close(run(path, x), small(x), rtol=0, atol=1e-4)
        torch.testing.assert_close(run(path, x), pruned.eval()(x), rtol=0, atol=1e-4)
    assert path.stat().st_size < 0.7 * export_onnx(model, x, tmp_path / "large.onnx").stat().st_size


@pytest.mark.slow
def test_a_language_model_pruned_and_repaired_runs_in_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.language_world import llama, text

    data = text()
    model = SparseGPT(pattern=NM(2, 4)).apply(llama(), data, rng=seeded(0)).eval()
    ids = next(data.batches())[0]
    path = export_onnx(model, ids, tmp_path / "llama.onnx")
    for n in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(run(path, ids[:n]), model(ids[:n]).logits, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "whisper"])
def test_a_model_of_several_inputs_keeps_their_names(tmp_path: Path, kind: str) -> None:
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ids = torch.randint(3, 60, (3, 8))
    if kind == "bert":
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        model = t.BertForSequenceClassification(t.BertConfig(vocab_size=64, **small)).eval()
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
    else:
        config = t.WhisperConfig(
            vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, num_mel_bins=8,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_source_positions=20, pad_token_id=0,
            max_target_positions=20, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        model = t.WhisperForConditionalGeneration(config).eval()
        inputs = {"input_features": torch.randn(3, 8, 40), "decoder_input_ids": ids}
    path = export_onnx(model, inputs, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {entry.name for entry in session.get_inputs()} == inputs.keys()
    for n in (1, 2):
        part = {name: value[:n] for name, value in inputs.items()}
        (found,) = session.run(None, {name: value.numpy() for name, value in part.items()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(**part).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({}, "an example input .*, or a dictionary"),
        ({"ids": [1, 2]}, "got .'ids': 'list'."),
        ({"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)}, "inputs of one batch"),
        (3, "got int"),
    ],
)
def test_what_is_no_input_is_refused(tmp_path: Path, example: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_onnx(Linear(3, 2), example, tmp_path / "x.onnx")  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_file_has_the_operators_asked_for(tmp_path: Path) -> None:
    import onnx

    for opset in (18, 20):
        path = export_onnx(world.model(), torch.randn(2, 8), tmp_path / f"{opset}.onnx", opset=opset)
        assert [o.version for o in onnx.load(path).opset_import if o.domain == ""] == [opset]


@pytest.mark.parametrize("error", [1.0, torch.nan])
def test_a_wrong_answer_leaves_no_file(tmp_path: Path, error: float) -> None:
    class Odd(Module):
        """Answers otherwise when it is exported."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + (error if torch.compiler.is_exporting() else 0.0)

    with pytest.raises(IntegrityError, match="Nothing was written"):
        export_onnx(Odd(), torch.randn(2, 8), tmp_path / "odd.onnx")
    assert not list(tmp_path.iterdir())


def test_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop(Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            while float(x.sum()) > 1e9:
                x = x / 2
            return x

    with pytest.raises(InputError, match="Loop cannot be exported"):
        export_onnx(Loop(), torch.randn(2, 3), tmp_path / "loop.onnx")
    with pytest.raises(InputError, match="example input"):
        export_onnx(Linear(2, 2), torch.tensor(1.0), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"unweave\[onnx\]"):
        export_onnx(Linear(2, 2), torch.randn(1, 2), tmp_path / "x.onnx")
