from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.interpret import world
from tests.interpret.test_dictionary import held
from tests.language_world import llama, text
from unweave import Data, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.interpret import (
    GSAE,
    Dictionary,
    SparseAutoencoder,
    fidelity,
    steering,
    top_examples,
)


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    how = Dictionary(latents=48, k=4, batch_size=100, buffer=300, lr=5e-3, epochs=6)
    return how.fit(held(world.vectors()[0]), rng=seeded(0))


def perfect() -> SparseAutoencoder:
    """24 latents that are the axes: a layer behind a ReLU comes back to the bit."""
    sae = SparseAutoencoder(24, 24, k=24, rng=seeded(0)).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(24))
    sae.W_dec.copy_(torch.eye(24))
    return sae


def test_equals_the_slow_measure(sae: SparseAutoencoder) -> None:
    model, _, heldout = world.trained()
    told = fidelity(sae, model, heldout, world.LAYER)
    inputs, labels = heldout.examples.tensors  # type: ignore[attr-defined]
    with torch.no_grad():
        x = model[:5](inputs)  # type: ignore[index]
        codes = sae.encode(x)
        clean, hat, zero = (model[5:](v) for v in (x, sae.decode(codes), 0 * x))  # type: ignore[index]
    loss = [float(F.cross_entropy(v, labels)) for v in (clean, hat, zero)]
    assert (told.loss, told.loss_kept, told.loss_zero) == pytest.approx(loss, rel=1e-4)
    assert told.fvu == pytest.approx(
        float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()), rel=1e-4
    )
    p, q = clean.log_softmax(1), hat.log_softmax(1)
    assert told.kl == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3)
    assert told.l0 == pytest.approx(float((codes > 0).float().sum(1).mean()))
    assert told.dead == pytest.approx(float((codes == 0).all(0).float().mean()))
    assert told.increase == pytest.approx(loss[1] - loss[0], abs=1e-4)
    assert told.recovered == pytest.approx((loss[2] - loss[1]) / (loss[2] - loss[0]), rel=1e-3)


def test_an_exact_dictionary_costs_nothing() -> None:
    model, _, heldout = world.trained()
    told = fidelity(perfect(), model, heldout, world.LAYER)
    assert (told.fvu, told.kl, told.increase, told.recovered) == (0, 0, 0, 1)


def test_codes_may_be_chosen_by_gradients(sae: SparseAutoencoder) -> None:
    model, _, heldout = world.trained()
    how = GSAE(latents=48, k=4)
    plain = fidelity(sae, model, heldout, world.LAYER)
    chosen = fidelity(sae, model, heldout, world.LAYER, codes=lambda x, g: how.encode(sae, x, g))
    told = fidelity(sae, model, heldout, world.LAYER, codes=lambda x, g: how.encode(sae, x, g), label="true")
    assert chosen.fvu > plain.fvu
    assert told.loss_kept != chosen.loss_kept


def test_padding_neither_counts_nor_changes() -> None:
    model, data = llama(layers=1), text(160)
    layer = "model.layers.0"
    ids = data.examples.tensors[0]  # type: ignore[attr-defined]
    sae = SparseAutoencoder(32, 40, k=5, rng=seeded(0)).requires_grad_(False)
    whole = fidelity(sae, model, data, layer)
    more = torch.cat([ids, torch.zeros(len(ids), 4, dtype=torch.long)], 1)
    mask = torch.ones_like(more)
    mask[:, 16:] = 0
    rows = [{"input_ids": i, "attention_mask": m} for i, m in zip(more, mask, strict=True)]
    padded = fidelity(sae, model, Data(rows, data.task, 8), layer)  # type: ignore[arg-type]
    for name in ("fvu", "l0", "dead", "loss", "loss_kept", "kl"):
        assert getattr(padded, name) == pytest.approx(getattr(whole, name), rel=1e-4), name


def test_steering_equals_adding_by_hand(sae: SparseAutoencoder) -> None:
    model, _, heldout = world.trained()
    some = heldout.subset(range(40))
    told = steering(sae, model, some, world.LAYER, torch.tensor([3, 11]), strength=0.5)
    inputs = heldout.examples.tensors[0][:40]  # type: ignore[attr-defined]
    with torch.no_grad():
        x = model[:5](inputs)  # type: ignore[index]
        assert told.size == pytest.approx(0.5 * float(x.norm(dim=1).mean()), rel=1e-5)
        p = model[5:](x).double().log_softmax(1)  # type: ignore[index]
        for i, j in enumerate((3, 11)):
            q = model[5:](x + told.size * sae.W_dec[j]).double().log_softmax(1)  # type: ignore[index]
            assert float(told.moved[i]) == pytest.approx(float((p - q).abs().mean()), rel=1e-4)
            assert float(told.kl[i]) == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4)


def test_top_examples_equal_a_sort(sae: SparseAutoencoder) -> None:
    model, _, heldout = world.trained()
    found = top_examples(sae, model, heldout, world.LAYER, latents=torch.tensor([5, 0, 40]), top=4)
    with torch.no_grad():
        codes = sae.encode(model[:5](heldout.examples.tensors[0]))  # type: ignore[index,attr-defined]
    for i, j in enumerate((5, 0, 40)):
        best = codes[:, j].topk(4)
        assert torch.allclose(found.values[i], best.values)
        assert found.examples[i].tolist() == [
            int(at) if v > 0 else -1 for at, v in zip(best.indices, best.values, strict=True)
        ]
    assert torch.allclose(found.density, (codes > 0).double().mean(0)[[5, 0, 40]])
    common = top_examples(sae, model, heldout, world.LAYER, most=3)
    density = (codes > 0).double().mean(0)
    assert density[common.which].tolist() == density[density < 0.5].sort(descending=True).values[:3].tolist()


def test_places_are_tokens_of_a_text_without_padding() -> None:
    model, data = llama(layers=1), text(64)
    ids = data.examples.tensors[0]  # type: ignore[attr-defined]
    mask = torch.ones_like(ids)
    mask[:, 9:] = 0
    rows = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]
    sae = SparseAutoencoder(32, 40, k=5, rng=seeded(0)).requires_grad_(False)
    found = top_examples(sae, model, Data(rows, data.task, 3), "model.layers.0", most=40, top=2)  # type: ignore[arg-type]
    assert int(found.places.max()) < 9
    with torch.no_grad():
        codes = sae.encode(model.model(ids[:, :9]).last_hidden_state * 0 + _layer(model, ids[:, :9]))
    i, j = 0, int(found.which[0])
    assert float(found.values[i, 0]) == pytest.approx(float(codes[..., j].max()), rel=1e-4)
    assert float(codes[found.examples[i, 0], found.places[i, 0], j]) == pytest.approx(
        float(found.values[i, 0]), rel=1e-4
    )


def _layer(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    held: list[torch.Tensor] = []
    hook = model.model.layers[0].register_forward_hook(  # type: ignore[union-attr,index]
        lambda m, a, out: held.append(out[0] if isinstance(out, tuple) else out)
    )
    model(ids)
    hook.remove()
    return held[0]


def test_refuses(sae: SparseAutoencoder) -> None:
    model, _, heldout = world.trained()
    few = heldout.subset(range(10))
    other = SparseAutoencoder(7, 9, k=2, rng=seeded(0))
    for measure in (
        lambda: fidelity(other, model, few, world.LAYER),
        lambda: steering(other, model, few, world.LAYER, torch.tensor([0])),
        lambda: top_examples(other, model, few, world.LAYER),
    ):
        with pytest.raises(InputError, match=r"reads activations of width 7; got .*Is it of another layer"):
            measure()
    for at in ([-1], [48], []):
        with pytest.raises(InputError, match="latents must be from 0 to 47"):
            steering(sae, model, few, world.LAYER, torch.tensor(at, dtype=torch.long))
        with pytest.raises(InputError, match="latents must be from 0 to 47"):
            top_examples(sae, model, few, world.LAYER, latents=torch.tensor(at, dtype=torch.long))
    with pytest.raises(EmptyDataError):
        fidelity(sae, model, heldout.subset([]), world.LAYER)
    with pytest.raises(InputError, match="the activations do not vary"):
        fidelity(sae, model, heldout.subset([0]), world.LAYER)
