"""LAPTOP-Diff: what goes, that the choice is exact, that plain diffusers reads what is left, and the losses."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.erase.pipelines import pipeline
from unweave import seeded
from unweave.errors import InputError
from unweave.generate import LaptopDiff, Pictures, Unit, feature_loss, knapsack, units_of, without
from unweave.generate.removable import renaming
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.models.text_to_image import TextToImage
from unweave.random import global_seed

PROMPTS = ["a photo of a cat", "a red church"]
SMALL = LaptopDiff(keep=0.6, calibration=6, steps=0, batch_size=4)


@lru_cache(maxsize=1)
def deep() -> TextToImage:
    """Stable Diffusion's classes with three layers a stage."""
    import diffusers

    model = pipeline("sd")
    with global_seed(3):
        model.denoiser = diffusers.UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=3, block_out_channels=(16, 32),
            norm_num_groups=8, cross_attention_dim=16, attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval()  # fmt: skip
    return model


@lru_cache(maxsize=1)
def stack() -> TextToImage:
    """A PixArt transformer of four blocks."""
    model = pipeline("pixart")
    config: Any = dict(model.denoiser.config) | {"num_layers": 4}
    with global_seed(3):
        model.denoiser = type(model.denoiser).from_config(config).eval()  # type: ignore[attr-defined]
    return model


def pictures(model: TextToImage, n: int = 8) -> Pictures:
    return Pictures(torch.randn(n, *model.shape, generator=seeded(1)), PROMPTS * (n // 2))


@pytest.mark.parametrize("many", [(0,), (1,), (2,), (0, 3), (1, 2)])
def test_a_transformer_without_blocks_is_one_that_skips_them(many: tuple[int, ...]) -> None:
    model = stack()
    units = units_of(model.denoiser)
    small = model.editable()
    small.denoiser = without(model.denoiser, [units[i] for i in many])
    x, text = torch.randn(2, *model.shape, generator=seeded(0)), model.encode(PROMPTS)
    blocks: Any = next(
        m for n, m in model.denoiser.named_children() if n == units[0].modules[0].split(".")[0]
    )
    handles = [blocks[i].register_forward_hook(lambda _m, args, _out: args[0]) for i in many]
    with torch.no_grad():
        skipping = model(x, 500, text)
        for handle in handles:
            handle.remove()
        assert torch.equal(small(x, 500, text), skipping)
        assert not torch.equal(model(x, 500, text), skipping)


def test_every_unit_and_every_pair_of_a_unet_goes_as_its_settings_say() -> None:
    """No weight is lost beside the unit's own, and each that stays has its old numbers under its new name."""
    model = deep()
    units, total = units_of(model.denoiser), sum(p.numel() for p in model.denoiser.parameters())
    names = [u.name for u in units]
    assert names == [
        "attention of down_blocks.0", "attention of up_blocks.1", "layer 1 of stage 0", "layer 2 of stage 0",
        "layer 1 of stage 1", "layer 2 of stage 1", "mid_block",
    ]  # fmt: skip
    x, text = torch.randn(2, *model.shape, generator=seeded(0)), model.encode(PROMPTS)
    small = model.editable()
    for gone in [(u,) for u in units] + list(combinations(units, 2))[::3]:
        small.denoiser = without(model.denoiser, gone)
        weights = {}
        for unit in gone:
            weights |= unit.weights
        assert sum(p.numel() for p in small.denoiser.parameters()) == total - sum(weights.values())
        assert small.denoiser.config != model.denoiser.config
    with torch.no_grad():
        assert bool(small(x, 500, text).isfinite().all())
    first = without(model.denoiser, [units[2]]).state_dict()
    old = model.denoiser.state_dict()
    assert torch.equal(
        first["down_blocks.0.resnets.1.conv1.weight"], old["down_blocks.0.resnets.2.conv1.weight"]
    )
    assert renaming(model.denoiser, [units[2]])["down_blocks.0.resnets.2."] == "down_blocks.0.resnets.1."
    assert not any(a.data_ptr() == b.data_ptr() for a in first.values() for b in old.values()), (
        "shares no tensor with the teacher"
    )


def test_choice_is_the_best_of_all() -> None:
    """Against every subset, also where units share weights and where one that reads the prompt must stay."""
    units = units_of(deep().denoiser)
    reading = {i for i, u in enumerate(units) if u.reads_prompts}
    for seed in range(8):
        losses = torch.rand(len(units), generator=seeded(seed), dtype=torch.float64).tolist()
        for share in (0.1, 0.35, 0.55):
            wanted = share * sum(p.numel() for p in deep().denoiser.parameters())
            best = min(
                sum(losses[i] for i in many)
                for k in range(len(units) + 1)
                for many in combinations(range(len(units)), k)
                if sum({n: s for i in many for n, s in units[i].weights.items()}.values()) >= wanted
                and not reading <= set(many)
            )
            chosen = knapsack(units, losses, wanted)
            assert sum(losses[units.index(u)] for u in chosen) == pytest.approx(best, abs=1e-7)
            assert sum({n: s for u in chosen for n, s in u.weights.items()}.values()) >= wanted


def test_effects_are_mean_squared_changes_of_the_output() -> None:
    model = stack()
    found = SMALL.choose(model, pictures(model), rng=seeded(0))
    assert found.kept <= 0.6
    assert found.predicted == pytest.approx(sum(found.losses[u.name] for u in found.removed))
    again = SMALL.choose(model, pictures(model), rng=seeded(0))
    assert again.losses == found.losses
    from unweave.random import draw_seed

    with global_seed(draw_seed(seeded(0))):
        at, t = torch.randint(8, (6,)), torch.randint(model.timesteps, (6,))
        noise = torch.randn(6, *model.shape)
    shown = pictures(model)
    x = model.add_noise(shown.latents[at], noise, t)
    text = model.encode([shown.prompts[i] for i in at.tolist()])
    units = units_of(model.denoiser)
    small = model.editable()
    small.denoiser = without(model.denoiser, [units[2]])
    with torch.no_grad():
        expected = float((model(x, t, text).double() - small(x, t, text).double()).square().mean())
    assert found.losses[units[2].name] == pytest.approx(expected, rel=1e-5)
    other = LaptopDiff(keep=0.6, calibration=6, steps=0, criterion="task").choose(model, shown, rng=seeded(0))
    assert other.losses != found.losses


@pytest.mark.parametrize("made", [deep, stack])
def test_plain_diffusers_reads_what_is_left(made: Any, tmp_path: Path) -> None:
    import diffusers

    model = made()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    small = SMALL.apply(model, pictures(model), rng=seeded(0))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    kept = sum(p.numel() for p in small.denoiser.parameters()) / sum(
        p.numel() for p in model.denoiser.parameters()
    )
    assert 0.3 < kept <= 0.6
    save_pipeline(small, tmp_path / "small")
    x, text = torch.randn(2, *model.shape, generator=seeded(0)), model.encode(PROMPTS)
    again = load_pipeline(tmp_path / "small")
    read = getattr(diffusers, type(model.denoiser).__name__).from_pretrained(tmp_path / "small" / model.kind)
    with torch.no_grad():
        expected = small(x, 500, text)
        assert torch.equal(again(x, 500, text), expected)
        small.denoiser = read.eval()
        assert torch.equal(small(x, 500, text), expected)


def test_features_count_by_their_relative_error() -> None:
    rng = seeded(0)
    small, large = (torch.randn(2, 3, 4, generator=rng) * s for s in (0.1, 100.0))
    pairs = [(small * 1.1, small), (large * 1.1, large)]
    assert float(feature_loss(pairs)) == pytest.approx(2 * 0.01, rel=1e-4)
    plain = float(feature_loss(pairs, normalise=False))
    assert plain == pytest.approx(
        float((0.1 * small).square().mean() + (0.1 * large).square().mean()), rel=1e-4
    )
    assert float(feature_loss([])) == 0
    half = torch.full((1, 40), 60000.0, dtype=torch.float16)
    assert float(feature_loss([(half * 0.5, half)])) == pytest.approx(0.25, rel=1e-3)


@pytest.mark.slow
def test_training_on_brings_it_back_to_the_teacher() -> None:
    model, shown = stack(), pictures(stack())
    choice = SMALL.choose(model, shown, rng=seeded(0))
    clean, noise = shown.latents, torch.randn(8, *model.shape, generator=seeded(5))
    x, text = model.add_noise(clean, noise, 300), model.encode(PROMPTS * 4)
    bare = SMALL.retrained(model, choice, shown, rng=seeded(1))
    more = LaptopDiff(keep=0.6, steps=100, batch_size=8, lr=2e-3, output=100.0)
    trained = more.retrained(model, choice, shown, rng=seeded(1))
    with torch.no_grad():
        goal = model(x, 300, text)
        far, near = (float((m(x, 300, text) - goal).square().mean()) for m in (bare, trained))
    assert near < 0.7 * far


def test_pruned_weights_stay_pruned_while_it_trains() -> None:
    model = stack().editable()
    with torch.no_grad():
        for n, p in model.denoiser.named_parameters():
            if n.endswith("ff.net.2.weight"):
                p[::2] = 0
    shown = pictures(model)
    choice = SMALL.choose(model, shown, rng=seeded(0))
    bare = SMALL.retrained(model, choice, shown, rng=seeded(1))
    trained = LaptopDiff(keep=0.6, steps=2, batch_size=2, lr=1e-2).retrained(
        model, choice, shown, rng=seeded(1)
    )
    zeros, before = (
        {n: p == 0 for n, p in m.denoiser.named_parameters() if n.endswith("ff.net.2.weight")}
        for m in (trained, bare)
    )
    assert before
    assert all(zeros[n].equal(zero) and zero.any() for n, zero in before.items())
    assert not any(p.equal(q) for p, q in zip(_weights(trained), _weights(bare), strict=True))


def _weights(model: TextToImage) -> list[torch.Tensor]:
    return [p for n, p in model.denoiser.named_parameters() if n.endswith("ff.net.2.weight")]


def test_refuses_what_cannot_be_reached() -> None:
    with pytest.raises(InputError, match="Keep at least"):
        LaptopDiff(keep=0.01, steps=0).choose(stack(), pictures(stack()), rng=seeded(0))
    one = Unit("a", ("a",), {"a": 5}, ("num_layers", -1, None))
    with pytest.raises(InputError, match="leaves one that reads the prompt"):
        knapsack([one], [1.0], 5)
    with pytest.raises(InputError, match="would do nothing with steps=0"):
        LaptopDiff(steps=0, lr=1e-3)
    with pytest.raises(InputError, match="the pictures are of shape"):
        SMALL.apply(stack(), Pictures(torch.zeros(2, 4, 2, 2), PROMPTS), rng=seeded(0))
    with pytest.raises(InputError, match="keep must be"):
        LaptopDiff(keep=1.0)
