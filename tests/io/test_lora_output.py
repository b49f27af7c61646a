"""An edit's change as an adapter, loaded by plain diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")
pytest.importorskip("peft", reason="diffusers reads adapters with peft")

from tests.erase.pipelines import pipeline
from tests.zoo_diffusers import draw
from unweave import seeded
from unweave.errors import InputError
from unweave.io.lora_output import Adapter, adapter_of, require_loadable
from unweave.io.pipeline_folder import save_pipeline
from unweave.models.text_to_image import TextToImage


def edited_by(model: TextToImage, rank: int, *, bias: bool, noise: float = 0.0) -> TextToImage:
    """Cross-attention moved by matrices of a rank, and by noise; its one bias too, if asked."""
    made, rng = model.editable(), seeded(4)
    with torch.no_grad():
        for name, p in made.weights("cross").items():
            if p.ndim == 2:
                p += torch.randn(len(p), rank, generator=rng) @ torch.randn(rank, p.shape[1], generator=rng)
                p += noise * torch.randn(p.shape, generator=rng)
            elif bias and name.endswith("bias"):
                p += torch.randn(p.shape, generator=rng)
    return made


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")  # of layers without a bias, where one has
@pytest.mark.parametrize(("kind", "bias"), [("sd", True), ("sdxl", False)])
def test_plain_diffusers_draws_with_the_adapter_as_with_the_edit(kind, bias: bool, tmp_path: Path) -> None:
    import diffusers

    model = pipeline(kind)
    edited = edited_by(model, 2, bias=bias)
    adapter = adapter_of(edited, model)
    assert (adapter.rank, adapter.error < 1e-5) == (2, True)
    for name, made in (("before", model), ("after", edited)):
        save_pipeline(made, tmp_path / name)
    adapter.save(tmp_path / "lora")

    def drawn(name: str, lora: Path | None = None) -> torch.Tensor:
        plain = diffusers.DiffusionPipeline.from_pretrained(tmp_path / name)
        plain.set_progress_bar_config(disable=True)
        if lora is not None:
            plain.load_lora_weights(lora)
        return draw(plain, ("a photo of a cat",))

    before, after, loaded = drawn("before"), drawn("after"), drawn("before", tmp_path / "lora")
    assert (before - after).abs().max() > 1e-3
    torch.testing.assert_close(loaded, after, atol=1e-4, rtol=0)
    merged = dict(adapter.merged(model).named_parameters())
    for name, weight in edited.named_parameters():
        torch.testing.assert_close(merged[name], weight, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("error", [0.5, 0.1, 0.01])
def test_the_rank_is_the_smallest_that_holds_the_error(error: float) -> None:
    model = pipeline()
    edited = edited_by(model, 1, bias=False, noise=0.2)
    adapter: Adapter = adapter_of(edited, model, error=error)
    before, after = (dict(m.denoiser.named_parameters()) for m in (model, edited))
    left, needed = [], []
    for name, (a, b, shift) in adapter.layers.items():
        change = (after[f"{name}.weight"] - before[f"{name}.weight"]).double().detach()
        left.append(float((change - b.double() @ a.double()).norm() / change.norm()))
        values = torch.linalg.svdvals(change)
        needed.append(next(r for r in range(len(values) + 1) if values[r:].norm() <= error * values.norm()))
        assert shift is None
    assert adapter.rank == max(needed)
    assert max(left) == pytest.approx(adapter.error, abs=1e-6)
    assert adapter.error <= error


@pytest.mark.parametrize("part", ["denoiser.conv_in.weight", "text_encoder"])
def test_what_no_adapter_holds_is_named(part: str) -> None:
    model = pipeline()
    edited = model.editable("denoiser", "text_encoder")
    name, weight = next((n, p) for n, p in edited.named_parameters() if n.startswith(part))
    with torch.no_grad():
        weight += 1
    with pytest.raises(InputError, match=f"changes {name}, which is no linear layer of the denoiser"):
        adapter_of(edited, model)


def test_nothing_changed_and_wrong_errors_are_refused() -> None:
    model = pipeline()
    with pytest.raises(InputError, match="changed no weight"):
        adapter_of(model.editable(), model)
    with pytest.raises(InputError, match="diffusers loads no adapter into PixArtAlphaPipeline"):
        require_loadable(pipeline("pixart"), "all")
    with pytest.raises(InputError, match=r"changes denoiser\.\S+, which is no linear layer of the denoiser"):
        require_loadable(model, "not_cross")
    require_loadable(model, "cross")
    require_loadable(model, None)
    with pytest.raises(InputError, match="above 0 and below 1; got 1.5"):
        adapter_of(model.editable(), model, error=1.5)
