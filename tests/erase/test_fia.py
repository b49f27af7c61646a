from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.erase.pipelines import CONCEPTS, KINDS, pipeline
from unweave import Mask, seeded
from unweave.erase import FIA, Concepts
from unweave.erase.fia import Contrast, excitation, spatial
from unweave.errors import InputError

SMALL = FIA(r2=0.2, steps=4, record=3, guidance=3.0)


def test_energy_saliency_by_hand() -> None:
    x = torch.tensor([[[3.0, 0.0], [4.0, 1.0]]])  # columns of norms 5 and 1
    y = torch.tensor([[[0.0], [2.0]]])
    # <X_1, Y> / ||Y|| = 8 / 2 = 4, <X_2, Y> / ||Y|| = 1
    assert excitation(x, y, "eq1").tolist() == [[[4.0, 1.0]]]
    assert excitation(x, y, "wanda").tolist() == [[[5.0, 1.0]]]
    # rows scaled to length 1: (1, 0) and (4, 1) / sqrt(17)
    assert excitation(x, y, "release")[0, 0].tolist() == pytest.approx([(33 / 17) ** 0.5, (1 / 17) ** 0.5])


@pytest.mark.parametrize(("tokens", "outs", "ins"), [(5, 3, 7), (1, 4, 2), (6, 2, 5)])
def test_energy_saliency_is_equation_1(tokens, outs, ins) -> None:
    x = torch.randn(tokens, ins, dtype=torch.float64, generator=seeded(0))
    w = torch.randn(outs, ins, dtype=torch.float64, generator=seeded(1))
    y = x @ w.T
    naive = torch.zeros(outs, ins, dtype=torch.float64)
    for i in range(outs):
        for j in range(ins):
            cosine = x[:, j] @ y[:, i] / (x[:, j].norm() * y[:, i].norm() + 1e-12)
            naive[i, j] = w[i, j].abs() * x[:, j].norm() * cosine.abs()
    ours = w.abs() * excitation(x[None], y[None], "eq1")[0]
    assert torch.allclose(ours, naive, rtol=1e-6)


@pytest.mark.parametrize("saliency", ["eq1", "wanda", "release"])
def test_running_moments_are_equation_2_in_any_batching(saliency, monkeypatch) -> None:
    monkeypatch.setattr("unweave.erase.fia._CHUNK", 40)  # a few rows at a time
    x = torch.randn(7, 4, 6, dtype=torch.float64, generator=seeded(0))
    y = torch.randn(7, 4, 5, dtype=torch.float64, generator=seeded(1))
    concept = torch.tensor([True, True, False, True, False, False, False])
    u = excitation(x, y, saliency)
    on, off = u[concept].numpy(), u[~concept].numpy()
    naive = np.maximum(0, on.mean(0) - off.mean(0) - 0.3 * off.std(0))
    assert naive.any()
    for parts in ([7], [3, 4], [1, 1, 2, 3]):
        contrast, low = Contrast(saliency), 0
        for n in parts:
            contrast.add(x[low : low + n], y[low : low + n], concept[low : low + n])
            low += n
        assert np.allclose(contrast.excess(0.3).numpy(), naive, atol=1e-12)


def test_spatial_selection_by_hand() -> None:
    a = torch.tensor([[9.0, 8.0, 1.0, 0.0], [4.0, 3.0, 2.0, 0.0]])
    top = [[True, True, False, False]]
    assert spatial(a, 0.5, "row").tolist() == top * 2
    # the layer's 4 largest are 9, 8, 4, 3; with one a row: 9 and 4
    assert spatial(a, 0.5, "layer").tolist() == top * 2
    assert spatial(a, 0.25, "row").tolist() == [[True, False, False, False]] * 2
    # the layer's 2 largest are 9 and 8, the row's one is 9 or 4: both hold for 9 alone
    assert spatial(a, 0.25).tolist() == [[True, False, False, False], [False] * 4]
    assert not spatial(torch.zeros(3, 5), 1.0).any()


@pytest.mark.parametrize("batch_size", [3, 16])
def test_scores_are_the_naive_ones(batch_size, monkeypatch) -> None:
    monkeypatch.setattr("unweave.erase.fia._CHUNK", 1 << 12)
    model, method = pipeline(), replace(SMALL, r1=0.3, sigma=0.5, batch_size=batch_size)
    noise = model.noise(1, seeded(0))
    data = CONCEPTS.only("cat")
    scores = method.scores(model, data, "cat", noise)
    name, layer = list(model.linears("ff_out").items())[1]
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for prompt in [*data.prompts("cat"), *data.base_prompts("cat")]:
        with layer_watch(layer) as calls:
            model.sample([prompt], steps=4, guidance=3.0, noise=noise, stop=3)
        seen[prompt] = calls
    weight, total, often = layer.weight.detach().double(), 0, 0
    for t in range(3):
        u = {}
        for prompt, calls in seen.items():
            x, y = (v[1].double() for v in calls[t])  # the guided half comes second
            u[prompt] = weight.abs() * (x.T @ y).T.abs() / y.norm(dim=0)[:, None]
        on, off = (
            torch.stack([u[p] for p in group]) for group in (data.prompts("cat"), data.base_prompts("cat"))
        )
        s = (on.mean(0) - off.mean(0) - 0.5 * off.std(0, correction=0)).clamp(min=0)
        tau = s.flatten().sort(descending=True).values[int(0.3 * s.numel()) - 1]
        total, often = total + s, often + ((s >= tau) & (s > 0)).double()
    naive = 0.5 * total / total.max() + 0.5 * often / 3
    near = (scores[name].double() - naive).abs()
    assert float((near < 1e-3).double().mean()) > 0.99  # an entry at the threshold may fall on either side
    assert float(naive.std()) > 0.05


class layer_watch:  # noqa: N801
    def __init__(self, layer):
        self.layer, self.calls = layer, []

    def __enter__(self):
        def look(layer, args, out):
            self.calls.append((args[0].detach(), (out - layer.bias).detach()))

        self.hook = self.layer.register_forward_hook(look)
        return self.calls

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_zeroes_what_it_found_and_nothing_else(kind) -> None:
    model = pipeline(kind)
    found = SMALL.find(model, CONCEPTS, rng=seeded(0))
    edited = SMALL.apply(model, CONCEPTS, rng=seeded(0))
    moved = 0
    for name, weight in model.named_parameters():
        alive = found.keep.keep.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(edited.get_parameter(name)[alive], weight[alive])
        assert not edited.get_parameter(name)[~alive].any()
        moved += int((~alive).sum())
    assert moved == found.pruned > 0
    assert all(0 < n <= 0.2 * found.watched for n in found.selected.values())
    assert found.pruned + found.shared <= sum(found.selected.values())


def test_one_concept_alone_prunes_what_it_selects() -> None:
    found = SMALL.find(pipeline(), CONCEPTS.only("cat"), rng=seeded(0))
    assert found.pruned == found.selected["cat"] > 0
    assert found.shared == 0


def test_concepts_that_agree_share_everything() -> None:
    same = Concepts(erase=("cat", "dog"), templates=("a {} in the park", "the {}"), bases=("a park", "the"))
    model = pipeline()
    with torch.no_grad():  # the text encoder reads both words alike
        table = model.text_encoder.get_input_embeddings().weight
        ids = [model.tokenizers[0](w, add_special_tokens=False).input_ids[0] for w in same.erase]
        table[ids[1]] = table[ids[0]]
    with pytest.raises(InputError, match="would zero no weight"):
        SMALL.find(model, same, rng=seeded(0))
    both = replace(SMALL, union=True).find(model, same, rng=seeded(0))
    assert both.pruned == both.selected["cat"] == both.selected["dog"]


def test_the_union_is_what_every_concept_selects() -> None:
    model, method = pipeline(), replace(SMALL, union=True)
    masks = []
    for concept in CONCEPTS.erase:
        masks.append(method.find(model, CONCEPTS.only(concept), rng=seeded(0)).keep)
    whole = method.find(model, CONCEPTS, rng=seeded(0)).keep
    assert whole == masks[0] & masks[1]
    alone = SMALL.find(model, CONCEPTS, rng=seeded(0))
    assert alone.keep == Mask({n: k | ~(masks[0].keep[n] | masks[1].keep[n]) for n, k in whole.keep.items()})


def test_hard_concepts_may_select_more() -> None:
    model = pipeline()
    plain = SMALL.find(model, CONCEPTS, rng=seeded(0)).selected
    hard = replace(SMALL, hard=("cat",), r2_hard=0.5).find(model, CONCEPTS, rng=seeded(0)).selected
    assert hard["cat"] > 1.3 * plain["cat"]
    assert hard["golf ball"] == plain["golf ball"]


def test_more_prompts_take_no_more_memory() -> None:
    contrast = Contrast("eq1")
    for _ in range(20):
        contrast.add(torch.randn(2, 3, 6), torch.randn(2, 3, 5), torch.tensor([True, False]))
    held = [v for v in vars(contrast).values() if isinstance(v, torch.Tensor)]
    assert sum(v.numel() for v in held) == 3 * 5 * 6


def test_refuses() -> None:
    with pytest.raises(InputError, match="FIA.r1 must be above 0 and at most 1"):
        FIA(r1=0)
    with pytest.raises(InputError, match="record must be at most steps = 50"):
        FIA(record=51)
    with pytest.raises(InputError, match="batch_size must be a whole number at least 1"):
        FIA(batch_size=0)
    with pytest.raises(InputError, match="keeps every weight that one of them selects"):
        replace(SMALL, alpha=0.5).find(pipeline(), CONCEPTS, rng=seeded(0))
    with pytest.raises(InputError, match="not to be erased"):
        replace(SMALL, hard=("dog",)).find(pipeline(), CONCEPTS, rng=seeded(0))
    with pytest.raises(InputError, match="would zero no weight"):
        replace(SMALL, sigma=1e6).find(pipeline(), CONCEPTS, rng=seeded(0))
    with pytest.raises(InputError, match="cannot see 'zeppelin'"):
        SMALL.apply(pipeline("pixart"), Concepts(erase=("zeppelin",), templates=("a {}",)), rng=seeded(0))
