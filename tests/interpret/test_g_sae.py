from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.interpret import world
from tests.interpret.test_dictionary import held
from tests.language_world import llama, text
from unweave import seeded
from unweave.errors import InputError
from unweave.interpret import GSAE, Dictionary, SparseAutoencoder

HOW = GSAE(latents=48, k=3, batch_size=100, buffer=300, lr=5e-3, epochs=4)


@pytest.fixture(scope="module")
def learnt() -> SparseAutoencoder:
    model, train, _ = world.trained()
    return HOW.learn(model, train, world.LAYER, rng=seeded(0))


def test_spends_its_latents_where_the_loss_changes(learnt: SparseAutoencoder) -> None:
    """First-order attribution that is lost with what was dropped: less than plain TopK loses, and than with others' gradients."""
    x, g = world.vectors()
    with torch.no_grad():
        z = learnt.affinities(x).relu()
        worth = z * (g @ learnt.W_dec.T).abs()

        def lost(codes: torch.Tensor) -> float:
            return float((worth * (codes == 0)).sum() / worth.sum())

        own, plain = lost(HOW.encode(learnt, x, g)), lost(learnt.encode(x))
        others = lost(HOW.encode(learnt, x, g[torch.randperm(len(g), generator=seeded(0))]))
        only = lost(replace(HOW, score="product").encode(learnt, x, g))
    assert only < own < 0.95 * plain
    assert own < 0.95 * others


def test_the_value_kept_is_the_plain_activation(learnt: SparseAutoencoder) -> None:
    x, g = (t[:50] for t in world.vectors())
    codes, z = HOW.encode(learnt, x, g), learnt.affinities(x).relu()
    assert torch.equal(codes[codes > 0], z[codes > 0])
    assert int((codes > 0).sum(1).max()) <= 3
    assert not torch.equal(codes > 0, learnt.encode(x) > 0)
    assert torch.allclose(HOW.encode(learnt, x, 1000 * g), codes), "the scale of the loss changed the choice"


def test_without_a_gradient_it_is_topk(learnt: SparseAutoencoder) -> None:
    x, g = world.vectors()
    assert torch.equal(HOW.encode(learnt, x, 0 * g), learnt.encode(x)), "saturated answers fall back to TopK"
    plain = Dictionary(latents=48, k=3, batch_size=100, buffer=300, lr=5e-3).fit(held(x), rng=seeded(0))
    tiny = replace(HOW.dictionary(), beta=1e-12, epochs=1).fit(held(x, g), rng=seeded(0))
    assert torch.equal(tiny.W_dec, plain.W_dec)
    far = replace(HOW.dictionary(), epochs=1).fit(held(x, g), rng=seeded(0))
    assert (far.W_dec - plain.W_dec).norm() > 1e-2


def test_reads_a_language_model_and_leaves_it_alone() -> None:
    model = llama(layers=1).requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    how = GSAE(latents=16, k=2, batch_size=64, buffer=128, ration="batch", score="product", label="true")
    sae = how.learn(model, text(320), "model.layers.0", rng=seeded(0))
    assert (sae.width, sae.gate) == (32, "jumprelu")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_refuses() -> None:
    model, train, _ = world.trained()
    with pytest.raises(InputError, match="k must be at most the number of latents, 8; got 9"):
        GSAE(latents=8, k=9)
    with pytest.raises(InputError, match="would do nothing with score='product'"):
        GSAE(score="product", beta=2.0)
    with pytest.raises(InputError, match="900 activations cannot train 1024 latents"):
        GSAE().learn(model, train, world.LAYER, rng=seeded(0))
    with pytest.raises(InputError, match="no layer '9'"):
        HOW.learn(model, train, "9", rng=seeded(0))
    other = SparseAutoencoder(7, 48, k=3, rng=seeded(0))
    with pytest.raises(InputError, match="reads activations of width 7"):
        HOW.encode(other, *(t[:5] for t in world.vectors()))
