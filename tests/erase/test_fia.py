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


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"batch_size": 3},
        {"normalise_strength": False},
        {"both_halves": True},
        {"saliency": "wanda"},
        {"saliency": "release", "guidance": 1.0},
        {"r1": 1e-6},
    ],
    ids=str,
)
def test_scores_are_the_naive_ones(how, monkeypatch) -> None:
    monkeypatch.setattr("unweave.erase.fia._CHUNK", 1 << 12)
    model, method = pipeline("pixart"), replace(SMALL, **{"r1": 0.3, "sigma": 0.5, **how})
    noise = model.noise(1, seeded(0))
    data = CONCEPTS.only("cat")
    scores = method.scores(model, data, "cat", noise)
    name, layer = list(model.linears("ff_out").items())[1]
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for prompt in [*data.prompts("cat"), *data.base_prompts("cat")]:
        with layer_watch(layer) as calls:
            model.sample([prompt], steps=4, guidance=method.guidance, noise=noise, stop=3)
        seen[prompt] = calls
    weight, total, often = layer.weight.detach().double(), 0, 0
    for t in range(3):
        u = {}
        for prompt, calls in seen.items():
            # the guided half comes second
            x, y = (v.flatten(0, 1) if method.both_halves else v[-1] for v in (c.double() for c in calls[t]))
            if method.saliency == "eq1":
                u[prompt] = weight.abs() * (x.T @ y).T.abs() / y.norm(dim=0)[:, None]
            else:
                rows = x / x.norm(dim=1, keepdim=True) if method.saliency == "release" else x
                u[prompt] = weight.abs() * rows.norm(dim=0)
        on, off = (
            torch.stack([u[p] for p in group]) for group in (data.prompts("cat"), data.base_prompts("cat"))
        )
        s = (on.mean(0) - off.mean(0) - 0.5 * off.std(0, correction=0)).clamp(min=0)
        tau = s.flatten().sort(descending=True).values[max(1, int(method.r1 * s.numel())) - 1]
        total, often = total + s, often + ((s >= tau) & (s > 0)).double()
    naive = 0.5 * total / (total.max() if method.normalise_strength else 3) + 0.5 * often / 3
    near = (scores[name].double() - naive).abs()
    assert (
        float((near < 1e-3 * naive.max()).double().mean()) > 0.99
    )  # an entry at the threshold may fall on either side
    assert float(naive.max()) > 1e-5


def voting(monkeypatch, chosen: dict[str, list[int]], **how):
    """What is found where each concept scores these entries of every layer, and no others."""

    def scores(self, model, data, concept, noise):
        found = {}
        for name, layer in model.linears(self.layers).items():
            flat = torch.zeros(layer.weight.numel())
            flat[chosen[concept]] = 1.0
            found[name] = flat.view_as(layer.weight)
        return found

    monkeypatch.setattr(FIA, "scores", scores)
    asked = Concepts(erase=tuple(chosen), templates=("a {}",), bases=("a",))
    return FIA(r2=1.0, **how).find(pipeline("pixart"), asked, rng=seeded(0))


@pytest.mark.parametrize(
    ("alpha", "pruned"),
    [(0.6, [0, 1, 3]), (1.0, [0, 1, 2, 3]), (0.34, [0, 1, 3]), (2 / 3, [0, 1, 3])],
)
def test_weights_that_many_concepts_select_are_kept(monkeypatch, alpha, pruned) -> None:
    # entry 4 is selected by all three, 2 by two, 0, 1 and 3 by one each
    chosen = {"cat": [0, 2, 4], "dog": [1, 2, 4], "bird": [3, 4]}
    found = voting(monkeypatch, chosen, alpha=alpha)
    for keep in found.keep.keep.values():
        assert (~keep.flatten()).nonzero().flatten().tolist() == pruned
    layers = len(found.keep.keep)
    assert found.selected == {"cat": 3 * layers, "dog": 3 * layers, "bird": 2 * layers}
    assert (found.pruned, found.shared) == (len(pruned) * layers, (5 - len(pruned)) * layers)
    assert found.watched == found.keep.size()
    whole = voting(monkeypatch, chosen, union=True)
    assert (whole.pruned, whole.shared) == (5 * layers, 0)


def test_a_share_of_many_concepts_is_counted_exactly(monkeypatch) -> None:
    names = [
        f"{a} {b}"
        for a in ("red", "blue", "park", "road", "table")
        for b in ("cat", "dog", "bird", "ball", "photo")
    ]
    chosen = {name: [0] if i < 7 else [1] for i, name in enumerate(names)}
    with pytest.raises(
        InputError, match="would zero no weight"
    ):  # 7 of 25 are 28 %, though 7 / 25 * 25 is above 7
        voting(monkeypatch, chosen, alpha=7 / 25)
    assert voting(monkeypatch, chosen, alpha=8 / 25).pruned == 2  # the first entry of both layers


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


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"r2_hard": 0.1}, "r2_hard=.* would do nothing without hard"),
        ({"union": True, "alpha": 0.5}, "alpha=.* would do nothing with union"),
        ({"guidance": 1.0, "both_halves": True}, "both_halves=.* would do nothing with guidance=1"),
    ],
)
def test_refuses_what_would_not_be_read(how, message) -> None:
    with pytest.raises(InputError, match=message):
        FIA(**how)


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
