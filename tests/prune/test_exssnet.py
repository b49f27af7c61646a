from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.neighbors
import torch
from torch import Tensor

from tests.prune.world import points
from unweave import Data, resumable, seeded
from unweave.embedded.digits import of_tensors
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.prune import ExSSNeT
from unweave.prune.exssnet import exssnet as module
from unweave.prune.exssnet.supermasks import _Straight, top
from unweave.tasks import CausalLM


def task(seed: int) -> Data:
    data = points(96)
    x, y = data.examples.tensors
    return of_tensors(x[:, torch.randperm(6, generator=seeded(seed))], y, classes=3, batch_size=16)


def method(**fields) -> ExSSNeT:
    weights = {} if fields.get("weight_epochs") == 0 else {"weight_epochs": 6, "weight_lr": 0.01}
    return ExSSNeT(**{"density": 0.3, "mask_epochs": 6, "mask_lr": 0.05} | weights | fields)


def shape(batch_norm: bool = True) -> torch.nn.Module:
    return mlp(6, 32, 5, batch_norm=batch_norm)  # more outputs than classes


def outputs(net, i: int) -> Tensor:
    return net(task(i).examples.tensors[0], i).detach()


def test_top_by_hand() -> None:
    assert top(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), 0.5).tolist() == [[True, False], [True, False]]
    scores = torch.tensor([1.0, 3.0], requires_grad=True)
    (_Straight.apply(scores, 0.5) * torch.tensor([5.0, 7.0])).sum().backward()
    assert scores.grad.tolist() == [5.0, 7.0]  # straight through, also where the mask is 0


def test_earlier_tasks_keep_their_bits_and_ssnet_forgets() -> None:
    drift = {}
    for exclusive in (True, False):
        m = method(exclusive=exclusive)
        net = m.start(shape(), rng=seeded(0))
        net = m.learn(net, task(0), rng=seeded(1))
        before, later = outputs(net, 0), net
        for i in (1, 2):
            later = m.learn(later, task(i), rng=seeded(i + 1))
        drift[exclusive] = float((outputs(later, 0) - before).abs().max())
    assert drift[True] == 0.0
    assert drift[False] > 0.01


def test_learns_by_masks_and_more_by_weights() -> None:
    data = task(0)
    losses = []
    for m in (method(weight_epochs=0), method()):
        net = m.apply(shape(), [data], rng=seeded(0))
        losses.append(float(data.task.losses(net.subnetwork(0), next(data.batches())).mean().detach()))
    assert losses[1] < losses[0] < 1.0986  # ln 3 is chance


def test_density_a_layer_free_capacity_and_head() -> None:
    net = method().apply(shape(), [task(0), task(1)], rng=seeded(0))
    for mask in net.masks:
        assert {n: int(a.sum()) for n, a in mask.keep.items()} == {
            "1.weight": round(0.3 * 192),
            "4.weight": 48,
        }
    assert net.free_capacity() == pytest.approx(1 - net.used().count() / (192 + 160))
    assert outputs(net, 0).shape == (96, 3)


def test_supsup_leaves_signed_constants() -> None:
    net = method(weight_epochs=0).apply(shape(False), [task(0)], rng=seeded(0))
    # gain / sqrt(fan-in) = sqrt(2 / 6)
    torch.testing.assert_close(net.backbone[1].weight.abs(), torch.full((32, 6), (2 / 6) ** 0.5))
    assert not net.backbone[1].bias.any()


def test_transfer_picks_the_task_it_is_a_copy_of() -> None:
    rng = seeded(5)
    noise = of_tensors(torch.randn(96, 6, generator=rng), torch.arange(96) % 3, classes=3, batch_size=16)
    m = method(neighbours=5, share=1.0)
    net = m.apply(shape(), [noise, task(0)], rng=seeded(0))
    assert m.sources(net, task(0))[0] == 1
    assert m.sources(m.start(shape(), rng=seeded(0)), task(0)) == []


def told(monkeypatch: pytest.MonkeyPatch, features: list[Tensor]) -> None:
    """Let earlier tasks have these features."""
    given = iter(features)
    monkeypatch.setattr(module, "predict", lambda *_: next(given))


def test_only_tasks_better_than_chance_are_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    m = method(neighbours=1, share=1.0)
    net = method(transfer="none", mask_epochs=1, weight_epochs=0).apply(shape(), [task(0)] * 3, rng=seeded(0))
    # features are the labels in the 20 examples learnt from; in the 10 judged 0, 10 and 4 are right
    labels = torch.arange(30) % 3
    none, some = labels.clone(), labels.clone()
    none[20:] = (labels[20:] + 1) % 3
    some[24:] = none[24:]
    told(monkeypatch, [f[:, None].float() for f in (none, labels, some)])
    three = of_tensors(torch.zeros(30, 6), labels, classes=3, batch_size=16)
    assert m.sources(net, three) == [1, 2]
    # 8 learnt from and 4 judged, one of them right: of 4 classes that is chance
    labels = torch.arange(12) % 4
    chance = labels.clone()
    chance[8:11] += 1
    told(monkeypatch, [chance[:, None].float()] * 3)
    four = of_tensors(torch.zeros(12, 6), labels, classes=4, batch_size=16)
    assert m.sources(net, four) == []


@pytest.mark.parametrize(
    ("share", "neighbours", "read", "asked"),
    [(1.0, 200, 90, 5), (1.0, 3, 90, 3), (0.34, 200, 31, 2), (0.01, 200, 3, 1)],
)
def test_a_tenth_of_what_is_learnt_from_are_neighbours_at_most(
    share: float, neighbours: int, read: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = method(share=share, neighbours=neighbours)
    net = method(transfer="none", mask_epochs=1, weight_epochs=0).apply(shape(), [task(0)], rng=seeded(0))
    seen: list[Any] = []

    class Judge:
        def __init__(self, k: int) -> None:
            seen.append(k)

        def fit(self, features: Any, labels: Any) -> Any:
            seen.append(len(features))
            return self

        def predict(self, features: Any) -> Any:
            seen.append(len(features))
            return np.zeros(len(features))

    monkeypatch.setattr(sklearn.neighbors, "KNeighborsClassifier", Judge)
    m.sources(net, task(0).subset(range(90)))
    learnt = round(0.66 * read)
    assert seen == [asked, learnt, read - learnt]


def test_transfer_judges_with_few_examples_too() -> None:
    m = method(share=1.0)  # 200 neighbours, as the paper's code has: more than there are examples
    net = m.apply(shape(), [task(0)], rng=seeded(0))
    assert m.sources(net, task(0)) == [0]


def test_knn_all_starts_from_the_mean_of_the_better_tasks_and_changes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"density": 0.1, "mask_epochs": 2, "weight_epochs": 1}
    m = method(transfer="knn_all", **settings)
    net = method(transfer="none", **settings).apply(shape(), [task(i) for i in (0, 1, 2)], rng=seeded(0))
    kept = [{n: s.clone() for n, s in scores.items()} for scores in net.scores]
    monkeypatch.setattr(ExSSNeT, "sources", lambda *_: [2, 0])
    start = m._initial(net, task(0), seeded(1))
    best = method(**settings)._initial(net, task(0), seeded(1))
    for name, scores in start.items():
        torch.testing.assert_close(scores, (kept[0][name] + kept[2][name]) / 2)
        assert torch.equal(best[name], kept[2][name])
    m.learn(net, task(0), rng=seeded(2))
    assert all(torch.equal(a[n], b[n]) for a, b in zip(kept, net.scores, strict=True) for n in a)
    monkeypatch.setattr(ExSSNeT, "sources", lambda *_: [])
    at_random = method(transfer="none", **settings)._initial(net, task(0), seeded(1))
    assert all(torch.equal(s, at_random[n]) for n, s in m._initial(net, task(0), seeded(1)).items())


def judged(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> list[dict[str, Tensor]]:
    """Let epochs be judged as told; the states they left."""
    states: list[dict[str, Tensor]] = []

    def judge(model, data) -> float:
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return accuracies[len(states) - 1]

    monkeypatch.setattr(module, "accuracy", judge)
    return states


def test_the_best_epoch_of_each_phase_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # masks: epoch 1 of 0..2 is best; weights: 0.6 untrained, 0.7, then 0.7 again, which is later, then worse
    states = judged(monkeypatch, [0.2, 0.6, 0.5, 0.6, 0.7, 0.7, 0.1])
    m = method(mask_epochs=3, weight_epochs=3, validation=0.25)
    net = m.apply(shape(), [task(0)], rng=seeded(0))
    assert len(states) == 7
    scores = states[1]["0.1.parametrizations.weight.0.scores"]
    assert torch.equal(net.scores[0]["1.weight"], scores)
    assert torch.equal(net.masks[0].keep["1.weight"], top(scores.abs(), 0.3))
    alive = net.masks[0].keep["1.weight"]
    assert torch.equal(net.backbone[1].weight[alive], states[5]["0.1.weight"][alive])
    assert torch.equal(net._statistics[0]["2.running_mean"], states[5]["0.2.running_mean"])
    for later in (2, 6):
        key = "0.1.parametrizations.weight.0.scores" if later == 2 else "0.1.weight"
        assert not torch.equal(states[later][key], states[later - 1][key])


def test_weights_that_never_get_better_stay_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    judged(monkeypatch, [0.9, 0.9, 0.5, 0.4])
    net = method(mask_epochs=1, weight_epochs=2, validation=0.25).apply(shape(), [task(0)], rng=seeded(0))
    torch.testing.assert_close(net.backbone[1].weight.abs(), torch.full((32, 6), (2 / 6) ** 0.5))


@pytest.mark.slow
def test_validation_keeps_old_tasks_and_resumes(tmp_path: Path) -> None:
    m = method(validation=0.25, mask_epochs=3, weight_epochs=3)
    net = m.apply(shape(), [task(0)], rng=seeded(0))
    before = outputs(net, 0)
    whole = m.learn(net, task(1), rng=seeded(1))
    assert torch.equal(outputs(whole, 0), before)
    with resumable(tmp_path):
        m.learn(net, task(1), rng=seeded(1))
    files = sorted(tmp_path.glob("fit-*"))
    assert len(files) == 6
    for file in files[4:]:  # as if killed in the second epoch of the weights
        file.unlink()
    with resumable(tmp_path):
        again = m.learn(net, task(1), rng=seeded(1))
    assert torch.equal(outputs(again, 1), outputs(whole, 1))


def test_is_saved_and_loaded_whole() -> None:
    m = method()
    net = m.apply(shape(), [task(0), task(1)], rng=seeded(0))
    fresh = m.start(shape(), rng=seeded(9))
    fresh.load_state_dict(net.state_dict())
    for i in (0, 1):
        assert torch.equal(outputs(fresh, i), outputs(net, i))
    assert fresh.free_capacity() == net.free_capacity()
    again, more = (m.learn(n, task(2), rng=seeded(1)) for n in (fresh, net))
    assert torch.equal(outputs(again, 2), outputs(more, 2))


def test_warns_when_full() -> None:
    m = method(density=1.0, mask_epochs=1, weight_epochs=1)
    with pytest.warns(UserWarning, match="nearly full"):
        m.apply(shape(), [task(0), task(1)], rng=seeded(0))


def test_refuses() -> None:
    with pytest.raises(InputError, match="ExSSNeT.density must be above 0 and at most 1; got 0.0"):
        ExSSNeT(density=0.0)
    with pytest.raises(
        InputError, match=r"validation must be at least 0 and below 1; got 1\.0\. It is the share of a task"
    ):
        ExSSNeT(validation=1.0)
    with pytest.raises(InputError, match="beside the 95 for validation"):
        method(validation=0.999).apply(shape(), [task(0).subset(range(95))], rng=seeded(0))
    with pytest.raises(InputError, match="mask_epochs must be a whole number at least 1"):
        ExSSNeT(mask_epochs=0)
    for idle in ({"transfer": "none", "share": 0.5}, {"transfer": "none", "neighbours": 3},
                 {"weight_epochs": 0, "weight_lr": 0.1}, {"weight_epochs": 0, "exclusive": False}):  # fmt: skip
        with pytest.raises(InputError, match="would do nothing"):
            ExSSNeT(**idle)
    with pytest.raises(InputError, match="torch.Generator"):
        method().start(shape(), rng=None)
    with pytest.raises(InputError, match="ExSSNeT needs a task that is Labelled"):
        method().apply(shape(), [Data(task(0).examples, CausalLM())], rng=seeded(0))
    with pytest.raises(InputError, match="learnt 0 tasks"):
        method().start(shape(), rng=seeded(0)).subnetwork(0)
