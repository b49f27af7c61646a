from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from unweave import seeded
from unweave.errors import InputError
from unweave.interpret import SMDL, Explanation, Viewer, ZeroShot, gradient_times_input, occlusion, trace
from unweave.interpret.regions import grid
from unweave.interpret.viewer import as_prepare
from unweave.random import global_seed


class Spots(nn.Module):
    """Class 1 for light in the upper left quarter, class 0 for light in the lower right one, class 2 otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(64, 4), nn.Linear(4, 3)
        corners = torch.zeros(4, 8, 8)
        for i, (a, b) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            corners[i, a : a + 4, b : b + 4] = 1 / 4
        with torch.no_grad():
            self.read.weight.copy_(corners.flatten(1))
            self.read.bias.zero_()
            self.head.weight.copy_(torch.tensor([[0.0, 0, 0, 3.0], [4.0, 0, 0, 0], [0, 0.5, 0.5, 0]]))
            self.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
        self.seen = 0
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.calls = self.seen + len(x), self.calls + 1
        out: Tensor = self.head(self.read(x.mean(1).flatten(1)))
        return out


with global_seed(0):
    MODEL = Spots()
IMAGE = torch.rand(3, 8, 8, generator=seeded(0)) * 0.5 + 0.5
QUARTERS = grid(8, 8, 2, 2)


def viewer(regions: Tensor = QUARTERS, **how: object) -> Viewer:
    return Viewer.of(MODEL, IMAGE, regions, **how)  # type: ignore[arg-type]


def slow_worth(how: SMDL, v: Viewer, chosen: list[int], y: int) -> float:
    """The four terms as written, region by region."""

    def p(regions: list[int]) -> Tensor:
        canvas = torch.zeros_like(IMAGE)
        for i in regions:
            canvas[:, v.regions == i] = IMAGE[:, v.regions == i]
        with torch.no_grad():
            return MODEL(canvas[None])[0].double()

    logits = p(chosen)
    q = logits.softmax(0)
    sure = 1 + float((q * q.log()).sum()) / math.log(3)
    if how.sureness == "evidence":
        sure = 1 - 3 / float((logits.clamp(-10, 10).exp() + 1).sum())
    rest = [i for i in range(v.m) if i not in chosen]
    features = []
    for i in range(v.m):
        canvas = torch.zeros_like(IMAGE)
        canvas[:, v.regions == i] = IMAGE[:, v.regions == i]
        features.append(MODEL.read(canvas.mean(0).flatten()).detach().double())
    spread = 0.0
    if len(chosen) > 1:
        for i in chosen:
            angles = [
                math.acos(
                    max(
                        -1,
                        min(1, float(features[i] @ features[j] / (features[i].norm() * features[j].norm()))),
                    )
                )
                for j in chosen
                if j != i
            ]
            spread += min(angles) / math.pi
    return (
        how.confidence * sure
        + how.effectiveness * spread
        + how.consistency * float(q[y])
        + how.collaboration * (1 - float(p(rest).softmax(0)[y]))
    )


@pytest.mark.parametrize(
    "how", [SMDL(), SMDL(confidence=1.0, effectiveness=1.0), SMDL(confidence=0.5, sureness="evidence")]
)
def test_worth_and_greedy_order_equal_the_slow_search(how: SMDL) -> None:
    v = viewer(grid(8, 8, 3, 3))
    order, scores = how.search(v, 1, rng=seeded(0))
    slow, chosen = [], list[int]()
    while len(chosen) < 9:
        values = {i: slow_worth(how, v, [*chosen, i], 1) for i in range(9) if i not in chosen}
        best = max(values, key=lambda i: (round(values[i], 9), -i))
        chosen.append(best)
        slow.append(values[best])
    assert order.tolist() == chosen
    assert scores.tolist() == pytest.approx(slow, abs=1e-5)


def test_the_region_that_decides_comes_first_and_curves_are_the_models() -> None:
    found = SMDL(pieces=4, division="grid").explain(MODEL, IMAGE, rng=seeded(0))
    assert (found.predicted, found.target, int(found.order[0])) == (1, 1, 0)
    assert found.revealed.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for r in range(5):
        canvas = torch.zeros_like(IMAGE)
        for i in found.order[:r].tolist():
            canvas[:, i_mask(i)] = IMAGE[:, i_mask(i)]
        shown, hidden = (MODEL(x[None]).softmax(1)[0, 1].item() for x in (canvas, IMAGE - canvas))
        assert found.insertion[r].item() == pytest.approx(shown, abs=1e-6)
        assert found.deletion[r].item() == pytest.approx(hidden, abs=1e-6)
    assert found.insertion[4] == found.deletion[0] == pytest.approx(found.probability)
    assert found.empty == pytest.approx(MODEL(0 * IMAGE[None]).softmax(1)[0, 1].item())
    area = sum(0.25 * (a + b) / 2 for a, b in pairwise(found.insertion.tolist()))
    assert found.insertion_area == pytest.approx(area)
    assert found.saliency()[0, 0] == 1
    assert found.saliency()[QUARTERS == found.order[3]].unique().tolist() == [0.25]


def i_mask(i: int) -> Tensor:
    return QUARTERS == i


def test_a_wrong_prediction_shows_what_would_repair_it() -> None:
    found = SMDL(pieces=4, division="grid").explain(MODEL, IMAGE, target=0, rng=seeded(0))
    assert (found.predicted, found.target, int(found.order[0]), found.repaired) == (1, 0, 3, 1)
    r, p = found.best(within=0.25)
    assert (r, p) == (1, float(found.insertion[1]))
    assert p > 2 * found.probability
    never = trace(viewer(), [1, 2, 0], 0)
    assert never.repaired is None


def test_the_value_map_falls_by_how_much_each_step_changed() -> None:
    found = Explanation(
        order=torch.tensor([2, 0, 1]), regions=grid(1, 3, 1, 3), target=0, predicted=0, probability=0.9,
        revealed=torch.tensor([0, 1 / 3, 2 / 3, 1]), insertion=torch.tensor([0.1, 0.5, 0.7, 0.9]),
        deletion=torch.tensor([0.9, 0.4, 0.2, 0.1]), says=torch.zeros(4, dtype=torch.long), scores=torch.zeros(3),
    )  # fmt: skip
    # both curves together: 1.1, 1.5, 1.8; so the map is 0, -0.4, -0.7, scaled
    assert found.saliency("value")[0].tolist() == pytest.approx([0.3 / 0.7, 0, 1], abs=1e-5)
    with pytest.raises(InputError, match='kind must be "order" or "value"'):
        found.saliency("odd")


def test_steps_candidates_and_batches() -> None:
    v, before = viewer(grid(8, 8, 4, 4)), MODEL.seen
    order, _ = SMDL(effectiveness=0.0, steps=3).search(v, 1, rng=seeded(0))
    assert len(order) == 3
    assert MODEL.seen - before == 2 * (16 + 15 + 14)
    calls = MODEL.calls
    SMDL(effectiveness=0.0, steps=1).search(v, 1, rng=seeded(0))
    assert MODEL.calls - calls == 2
    small = Viewer.of(MODEL, IMAGE, v.regions, batch_size=3)
    assert torch.equal(SMDL().search(small, 1, rng=seeded(0))[0], SMDL().search(v, 1, rng=seeded(0))[0])
    drawn = [SMDL(candidates=2).search(v, 1, rng=seeded(s))[0] for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len(drawn[0].unique()) == 16


def test_hiding_is_in_pixel_space_and_by_masks() -> None:
    dark = IMAGE.clone()
    dark[:, :4, :4] = 0  # black pixels belong to their region too
    v = Viewer.of(MODEL, dark, QUARTERS, prepare=lambda x: 2 * x - 1)
    shown = v.shown(torch.eye(4, dtype=torch.bool))
    assert torch.equal(shown.sum(0), dark)
    assert v.areas.tolist() == [0.25] * 4
    assert torch.allclose(v.ask(torch.zeros(1, 4, dtype=torch.bool)), MODEL(0 * dark[None] - 1))
    blurred = Viewer.of(MODEL, IMAGE, QUARTERS, fill="mean")
    hidden = blurred.shown(torch.zeros(1, 4, dtype=torch.bool))[0]
    assert torch.allclose(hidden, IMAGE.mean((1, 2), keepdim=True).expand_as(IMAGE))


def test_baselines_by_hand() -> None:
    v = viewer()
    p = MODEL(IMAGE[None]).softmax(1)[0, 0]
    falls = []
    for i in range(4):
        without = IMAGE.clone()
        without[:, QUARTERS == i] = 0
        falls.append(float((p - MODEL(without[None]).softmax(1)[0, 0]).detach()))
    assert occlusion(v, 0).tolist() == sorted(range(4), key=lambda i: -falls[i])
    x = IMAGE.clone().requires_grad_()
    MODEL(x[None]).log_softmax(1)[0, 0].backward()
    sizes = (x.grad * IMAGE).sum(0).abs()  # type: ignore[operator]
    each = [float(sizes[QUARTERS == i].mean()) for i in range(4)]
    assert gradient_times_input(v, 0).tolist() == sorted(range(4), key=lambda i: -each[i])


def test_the_papers_own_settings() -> None:
    how = SMDL.published()
    assert (how.confidence, how.effectiveness, how.consistency, how.collaboration) == (1, 1, 1, 1)
    big = torch.rand(3, 20, 20, generator=seeded(0))
    with global_seed(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(1200, 8), nn.ReLU(), nn.Linear(8, 3))
    found = how.explain(net, big, rng=seeded(0))
    assert (len(found.order), int(found.regions.max()) + 1) == (24, 25)


@pytest.mark.slow
def test_a_model_without_linear_layers_and_one_of_texts() -> None:
    with global_seed(0):
        conv = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert len(SMDL(pieces=4, division="grid").explain(conv, IMAGE, rng=seeded(0)).order) == 4
    transformers = pytest.importorskip("transformers")
    text = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 8,
        "eos_token_id": 1,
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 8,
        "patch_size": 4,
    }
    with global_seed(0):
        clip = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        ).eval()
    ids = torch.tensor([[5, 6, 1], [7, 8, 1], [9, 3, 1]])
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = ZeroShot(clip, texts)
    with torch.no_grad():
        expected = clip(**texts, pixel_values=IMAGE[None]).logits_per_image
        assert torch.allclose(model(IMAGE[None]), expected, atol=1e-5)
    v = Viewer.of(model, IMAGE, QUARTERS)
    assert v.features(torch.ones(1, 4, dtype=torch.bool)).norm().item() == pytest.approx(1, abs=1e-5)
    assert len(SMDL(pieces=4).explain(model, IMAGE, rng=seeded(0)).order) >= 2
    with pytest.raises(InputError, match="this Spots has no get_image_features"):
        ZeroShot(MODEL, texts)
    with pytest.raises(InputError, match="at least two texts"):
        ZeroShot(clip, {k: t[:1] for k, t in texts.items()})


def test_normalisation_of_a_processor() -> None:
    class Processor:
        do_normalize, image_mean, image_std = True, [0.5, 0.4, 0.3], [0.2, 0.2, 0.1]

    ready = as_prepare(Processor())(IMAGE[None])[0]
    assert torch.allclose(ready[2], (IMAGE[2] - 0.3) / 0.1)
    Processor.do_normalize = False
    assert torch.equal(as_prepare(Processor())(IMAGE), IMAGE)


def test_refuses() -> None:
    how = SMDL(pieces=4, division="grid")
    for image, words in (
        (IMAGE[None], r"floating point \[c, h, w\]; got torch.float32 \(1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \(3, 8, 8\)"),
        (IMAGE * torch.nan, "a pixel that is not finite"),
    ):
        with pytest.raises(InputError, match=words):
            how.explain(MODEL, image, rng=seeded(0))
    for target in (-1, 3):
        with pytest.raises(InputError, match=f"target must be a class from 0 to 2; got {target}"):
            how.explain(MODEL, IMAGE, target=target, rng=seeded(0))
    with pytest.raises(InputError, match="65 regions were asked of an image of 8 x 8 pixels"):
        SMDL(pieces=65).explain(MODEL, IMAGE, rng=seeded(0))
    with pytest.raises(InputError, match=r"regions are whole numbers \[8, 8\]"):
        how.explain(MODEL, IMAGE, regions=grid(9, 8, 2, 2), rng=seeded(0))
    with pytest.raises(InputError, match=r"answers \(1, 3, 8, 8\) to 1 images"):
        how.explain(nn.Identity(), IMAGE, rng=seeded(0))
    for order in ([0, 0], [4], [-1], []):
        with pytest.raises(InputError, match="an order holds different regions from 0 to 3"):
            trace(viewer(), order)
    with pytest.raises(InputError, match="all four weights are 0"):
        SMDL(effectiveness=0.0, consistency=0.0, collaboration=0.0)
    with pytest.raises(InputError, match="sureness='evidence' would do nothing with confidence=0"):
        SMDL(sureness="evidence")
    with pytest.raises(InputError, match="pieces=9 would do nothing with division='prior'"):
        SMDL(division="prior", pieces=9)
    with pytest.raises(InputError, match="rng must be"):
        how.explain(MODEL, IMAGE, rng=None)  # type: ignore[arg-type]
