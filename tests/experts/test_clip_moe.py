"""CLIP-MoE: clusters and their batches, stages that move feed-forwards alone, mixtures by the definition, saving."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn import Linear, Sequential

from tests.zoo import SIDE, TOKENS, VOCABULARY, Table, members
from unweave import Data, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.experts import CLIPMoE
from unweave.experts.clip_moe import Stages, averaged, cluster_batches, pseudo_labels
from unweave.io.transformers_folder import load_model, save_model_folder
from unweave.models.mixed_mlp import MixedMLP, plain_mlps
from unweave.models.moe import record_of
from unweave.tasks import Classify, predict
from unweave.tasks.contrast import Contrast

HOW = CLIPMoE(
    experts=3, k_image=2, k_text=2, lr=3e-3, router_lr=1e-2, warm=2, dropout=0.0, epochs=2, router_epochs=2
)


@lru_cache
def clip() -> Any:
    return members("contrastive")[0].model().eval()


@lru_cache
def pairs(n: int = 96) -> Data[Any]:
    """Each image is a colour and a corner, each text names both."""
    rng = seeded(2)
    colour, corner = torch.randint(3, (n,), generator=rng), torch.randint(4, (n,), generator=rng)
    images = 0.3 * torch.randn(n, 3, SIDE, SIDE, generator=rng)
    images[torch.arange(n), colour] += 1
    for i in range(n):
        top, left = int(corner[i]) // 2 * SIDE // 2, int(corner[i]) % 2 * SIDE // 2
        images[i, :, top : top + SIDE // 2, left : left + SIDE // 2] += 1
    ids = torch.stack([colour + 4, corner + 12], 1).repeat(1, TOKENS // 2)
    ids[:, 0], ids[:, -1] = 1, VOCABULARY - 1
    return Data(Table({"pixel_values": images, "input_ids": ids}), Contrast(), 8)


@lru_cache
def stages() -> Stages:
    return HOW.stages(clip(), pairs(), rng=seeded(0))


def test_loss_and_embeddings_are_those_of_the_definition() -> None:
    batch = next(pairs().batches())
    with torch.no_grad():
        out = clip()(**batch)
        losses = Contrast(smoothing=0.2).losses(clip(), batch)
    scores = out.logits_per_image.double()
    n, expected = len(scores), []
    for i in range(n):
        target = torch.full((n,), 0.2 / n, dtype=torch.float64)
        target[i] += 0.8
        rows = -(target * scores[i].log_softmax(0)).sum() - (target * scores[:, i].log_softmax(0)).sum()
        expected.append(rows / 2)
    torch.testing.assert_close(losses.double(), torch.stack(expected), rtol=1e-5, atol=1e-6)
    told = predict(clip(), pairs())
    assert told.shape[:2] == (96, 2)
    torch.testing.assert_close(told.norm(dim=-1), torch.ones(96, 2))


def test_labels_gather_and_batches_come_from_one_cluster() -> None:
    rng = seeded(1)
    image, text = torch.arange(60) % 2, torch.arange(60) // 2 % 2
    centres = F.normalize(torch.randn(2, 2, 6, generator=rng), dim=-1)
    e = torch.stack([centres[0][image], centres[1][text]], 1) + 0.01 * torch.randn(60, 2, 6, generator=rng)
    settings: Any = {"k_image": 2, "k_text": 2, "rng": rng}
    both = pseudo_labels(e, torch.zeros(60, dtype=torch.long), modality="both", **settings)
    joint = 2 * text + image
    same = lambda a: a[:, None] == a[None]  # noqa: E731
    assert torch.equal(same(both), same(joint))
    alone = pseudo_labels(e, torch.zeros(60, dtype=torch.long), modality="text", **settings)
    assert torch.equal(same(alone), same(text))
    former = torch.arange(60) // 30
    assert torch.equal(same(pseudo_labels(e, former, modality="both", **settings)), same(4 * former + joint))
    labels = torch.tensor([0] * 7 + [1] * 10 + [2] * 2)
    batches = cluster_batches(labels, 3, seeded(0))
    assert [{int(labels[i]) for i in b} for b in batches] == [{0}, {1}, {0}, {1}, {1}], (
        "in turns, rests dropped"
    )
    assert len({i for b in batches for i in b}) == 15


def test_stages_move_the_feed_forwards_from_the_base_and_say_what_they_dropped() -> None:
    found, base = stages(), clip()
    names = list(plain_mlps(base))
    assert len(found.experts) == 3
    assert all(set(e) == set(names) for e in found.experts)
    for name in names:
        states = [e[name] for e in found.experts]
        assert all(torch.equal(t, base.get_submodule(name).state_dict()[n]) for n, t in states[0].items())
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert any(not torch.equal(t, states[b][n]) for n, t in states[a].items())
    assert found.clusters[1] >= found.clusters[0] >= 2
    assert all(0 <= share < 1 for share in found.dropped)
    assert any(share > 0 for share in found.dropped)
    locked = CLIPMoE(experts=2, k_image=2, k_text=2, lr=3e-3, warm=0, unlock=1).stages(
        base, pairs(), rng=seeded(0)
    )
    vision = [n for n in names if n.startswith("vision")]
    moved = [
        any(not torch.equal(t, locked.experts[0][n][k]) for k, t in locked.experts[1][n].items())
        for n in vision
    ]
    assert moved == [False] + [True] * (len(vision) - 1)


def test_a_mixture_is_the_weighted_sum_of_each_tokens_best_experts() -> None:
    mixed = HOW.assemble(clip(), stages(), rng=seeded(0))
    name, block = next((n, m) for n, m in mixed.named_modules() if isinstance(m, MixedMLP))
    x = torch.randn(2, 5, block.router.in_features, generator=seeded(3))
    with torch.no_grad():
        y = block(x)
        for token, own in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
            p = (block.router.weight @ token).softmax(0)
            chosen = p.sort(descending=True).indices[:2]
            expected = sum(p[e] / p[chosen].sum() * block.experts[e](token) for e in chosen)
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
        index, p = block.told
        share = torch.tensor([float((index == e).double().mean()) for e in range(3)])
        assert float(block.imbalance()) == pytest.approx(3 * float((share * p.mean(0)).sum()), rel=1e-5)
    same = CLIPMoE(experts=3, init="upcycling")
    copies = same.assemble(clip(), same.stages(clip(), pairs(), rng=seeded(0)), rng=seeded(0)).eval()
    torch.testing.assert_close(predict(copies, pairs()), predict(clip(), pairs()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_routers_alone_are_trained_and_the_loss_falls() -> None:
    mixed = HOW.assemble(clip(), stages(), rng=seeded(0))
    routed = HOW.route(mixed, pairs(), rng=seeded(0))
    moved = {n for n, p in mixed.named_parameters() if not torch.equal(p, routed.get_parameter(n))}
    assert moved
    assert all(".router." in n for n in moved)
    assert all(not m.training for m in routed.modules()), "modes come back as they were"
    loss = lambda m: float(predict(m, pairs(), pairs().task.losses).mean())  # noqa: E731
    assert loss(routed) < loss(mixed)
    assert loss(routed) < loss(clip()) - 0.05
    whole = CLIPMoE(experts=3, init="noisy upcycling", train="routers and experts", router_lr=1e-3, warm=0)
    tuned = whole.apply(clip(), pairs(), rng=seeded(0))
    assert loss(tuned) < loss(clip())


def test_it_is_saved_and_read_again_by_our_loader(tmp_path: Path) -> None:
    mixed = HOW.assemble(clip(), stages(), rng=seeded(0)).eval()
    save_model_folder(mixed, tmp_path / "clip", structure=record_of(mixed))
    again = load_model(tmp_path / "clip", "AutoModel")
    assert torch.equal(predict(again, pairs()), predict(mixed, pairs()))
    assert sum(isinstance(m, MixedMLP) for m in again.modules()) == len(plain_mlps(clip()))
    record = record_of(mixed)
    record["mixed"] = {"visual_projection": next(iter(record["mixed"].values()))}
    from unweave.io.structure import restructure_

    with pytest.raises(InputError, match="where the model has none"):
        restructure_(members("contrastive")[0].model(), record)


def test_the_average_control_is_the_mean_of_all_experts() -> None:
    mean = averaged(clip(), stages())
    for name in plain_mlps(clip()):
        for n, t in mean.get_submodule(name).state_dict().items():
            expected = sum(e[name][n].double() for e in stages().experts) / 3
            torch.testing.assert_close(t.double(), expected, rtol=1e-6, atol=1e-7)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="at least 2 and top_k at most"):
        CLIPMoE(experts=2, top_k=3)
    with pytest.raises(InputError, match="would do nothing"):
        CLIPMoE(init="upcycling", k_image=4)
    with pytest.raises(InputError, match="fills a batch of 96"):
        CLIPMoE(experts=2).stages(clip(), Data(pairs().examples, Contrast(), 96), rng=seeded(0))
    with pytest.raises(InputError, match="fewer than 3 clusters"):
        CLIPMoE(experts=2).stages(clip(), pairs().subset([0, 1]), rng=seeded(0))
    with pytest.raises(InputError, match="unlock must be below"):
        CLIPMoE(unlock=9).stages(clip(), pairs(), rng=seeded(0))
    with pytest.raises(InputError, match="reads pairs of images and texts"):
        CLIPMoE().apply(clip(), Data(pairs().examples, Classify(3), 8), rng=seeded(0))
    with pytest.raises(InputError, match="two-layer feed-forward in each block"):
        CLIPMoE().stages(Sequential(Linear(4, 4)), pairs(), rng=seeded(0))
    with pytest.raises(EmptyDataError):
        CLIPMoE().apply(clip(), pairs().subset([]), rng=seeded(0))
    with pytest.raises(InputError, match="smoothing must be"):
        Contrast(smoothing=1.0)
