"""O3: adapters row by row, the detector's scores and weights, orthogonality over requests, what is left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.language.world import caught, llama
from unweave import Request, seeded
from unweave.errors import InputError
from unweave.language import O3
from unweave.models.guarded import Adapted, Detector, Fit, Gate, Guarded, pooled, soft_weight
from unweave.tasks.language import IGNORED, Text, texts

QUICK: dict[str, Any] = {"rank": 2, "epochs": 1, "lr": 0.02}


def of(low: int, high: int, count: int, seed: int, answer: int | None = None) -> list[Text]:
    """Prompts of 3 to 5 tokens from a vocabulary of their own, with 2 tokens of answer."""
    rng = seeded(seed)
    found = []
    for i in range(count):
        n = 3 + i % 3
        ids = torch.randint(low, high, (n + 2,), generator=rng).tolist()
        found.append(Text(ids if answer is None else [*ids[:n], answer, answer], n))
    return found


def apart(low: int = 1, high: int = 9, batch_size: int = 10) -> Request[Any]:
    """Texts to forget and others, in words that they do not share."""
    gone = of(low, high, 25, 1)
    return Request(
        texts(gone, alternatives=[Text([*t.ids[: t.prompt], 23, 23], t.prompt) for t in gone], batch_size=batch_size),
        texts(of(16, 23, 12, 2), batch_size=batch_size), texts(of(16, 23, 4, 3)),
    )  # fmt: skip


def single(low: int = 1, high: int = 9) -> Any:
    return llama(0, torch.float32), apart(low, high)


def test_an_adapted_layer_weighs_each_text() -> None:
    transformers = pytest.importorskip("transformers")
    rng, w = seeded(0), torch.tensor([0.0, 0.25, 1.0])
    for base in (torch.nn.Linear(5, 7), transformers.pytorch_utils.Conv1D(7, 5)):
        gate = Gate()
        layer = Adapted(base, 2, 4.0, gate, rng)
        layer.b.data = torch.randn(7, 2, generator=rng)
        x = torch.randn(3, 4, 5, generator=rng)
        assert torch.equal(layer(x), base(x))
        gate.weights = w
        due = base(x) + 4.0 * w[:, None, None] * (x @ layer.a.T @ layer.b.T)
        assert torch.allclose(layer(x), due, atol=1e-6)
        assert torch.allclose(layer(x.reshape(12, 5)), due.reshape(12, 7), atol=1e-6)  # tokens in a row


def test_weights_are_the_paper_s_and_typical_texts_are_not_strange() -> None:
    means, sds = torch.tensor([1.0, 0.4], dtype=torch.float64), torch.tensor([0.5, 0.8], dtype=torch.float64)
    o = torch.linspace(-3, 0.7, 9, dtype=torch.float64)

    def mixed(x: Any) -> Any:
        return sum(stats.norm.cdf(x, float(m), float(s)) for m, s in zip(means, sds, strict=True)) / 2

    away = np.abs(mixed(o.numpy()) - mixed(1.4 - o.numpy()))
    due = 1 / (1 + np.exp(-(10 * (1 - away) - 2)))
    assert np.allclose(soft_weight(o, means, sds, 10.0).numpy(), due, atol=1e-12)
    above = soft_weight(torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64), means, sds, 10.0)
    assert torch.allclose(above, above[:1].expand(3))
    assert float(above[0]) == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-12)


@pytest.mark.parametrize("sign", ["consistent", "code"])
def test_scores_are_the_equation_and_weigh_what_is_like_the_request(sign: Any) -> None:
    from sklearn.covariance import LedoitWolf

    rng = seeded(1)
    used, rest, far = (
        shift + torch.randn(n, 2, 3, generator=rng) for n, shift in ((30, 2.0), (10, 2.0), (20, -2.0))
    )
    made = Detector.of(used, rest, Fit(gamma=3.0, sign=sign), floor=0.15)
    raw = np.zeros((10, 2))
    for layer in range(2):
        known, x = used[:, layer].double().numpy(), rest[:, layer].double().numpy()
        model = LedoitWolf().fit(known)
        for i, row in enumerate(x):
            cosine = max(row @ k / np.linalg.norm(row) / np.linalg.norm(k) for k in known)
            off = row - known.mean(0)
            raw[i, layer] = (
                -off @ np.linalg.inv(model.covariance_) @ off / 2
                + (1 if sign == "consistent" else -1) * 3 * cosine
            )
    due = made._margin(torch.from_numpy(raw))
    assert torch.allclose(made.margin(rest), due, atol=1e-8)
    assert torch.allclose(made.means[1], due.mean())
    assert torch.allclose(made.sds[1], due.std(correction=0))
    if sign == "consistent":
        assert float(made(rest).mean()) > 0.6
        assert float(made(rest).min()) > float(made(far).max()) == 0.0  # below the floor
        hard = Detector.of(used, rest, Fit(gamma=3.0), cut=0.5)
        assert set(hard(torch.cat([rest, far])).tolist()) == {0.0, 1.0}


def test_loss_is_other_answers_and_what_requests_share() -> None:
    model, first = single()
    method = O3(**QUICK, orthogonal=0.3)
    once = method.apply(model, first, rng=seeded(0))
    second = apart(9, 16)
    found = caught(method, once, second)
    student, batch = found["student"], next(found["data"].batches())
    with torch.no_grad():  # away from the start, where A is the first request's
        for layer in student.layers():
            layer.a += 0.1 * torch.randn(layer.a.shape, generator=seeded(4))
    task, turned = second.forget.task, []
    ((inner, _),) = batch
    told = inner["alternative"]
    logits = student(told["input_ids"], told["attention_mask"]).logits[:, :-1]
    counted = told["labels"][:, 1:] != IGNORED
    nll = cross_entropy(logits[counted], told["labels"][:, 1:][counted])
    for layer in student.layers():
        assert len(layer.former) == 1
        turned.append(float(((layer.former[0] @ layer.a.T) ** 2).sum().detach()))
    due = float(nll.detach()) + 0.3 * float(np.mean(turned))
    assert float(found["objective"](student, batch).detach()) == pytest.approx(due, rel=1e-5)
    assert task.ids(batch[0][0]).shape[0] == 10
    assert sorted(id(p) for g in found["optimizer"].param_groups for p in g["params"]) == sorted(
        id(p) for p in student.adapters()
    )
    twice = method.apply(once, second, rng=seeded(1))
    assert [len(layer.former) for layer in twice.layers()] == [2] * len(twice.layers())
    assert all(torch.equal(a.former[0], b.a) for a, b in zip(twice.layers(), once.layers(), strict=True))
    assert len(twice.detectors) == 2


def test_other_texts_are_answered_as_before_bit_by_bit() -> None:
    model, data = single()
    made = O3(**QUICK | {"epochs": 4}, gate="hard").apply(model, data, rng=seeded(0))
    assert isinstance(made, Guarded)
    gone, kept = next(data.forget.batches()), next(data.retain.batches())
    w = made.weigh(gone["input_ids"], gone["attention_mask"])
    assert float((w > 0.5).double().mean()) >= 0.8
    left = made.weigh(kept["input_ids"], kept["attention_mask"]) == 0
    assert float(left.double().mean()) >= 0.7
    with torch.no_grad():
        before, after = (
            m(input_ids=kept["input_ids"], attention_mask=kept["attention_mask"]).logits
            for m in (model, made)
        )
        assert torch.equal(before[left], after[left])
        assert not torch.equal(before[~left], after[~left]) or bool(left.all())
        task = data.forget.task
        refused = [float(task.losses(m, task.alternative(gone)).mean()) for m in (model, made)]
        assert refused[1] < refused[0]
    for name, value in model.state_dict().items():
        parts = dict(made.model.state_dict())
        assert torch.equal(
            value, parts[name] if name in parts else parts[name.replace(".weight", ".base.weight")]
        )
    prompt = gone["input_ids"][:1, :3]
    said = made.generate(prompt, max_new_tokens=2, do_sample=False, pad_token_id=0)
    with made._at(made.weigh(prompt)):
        ids = prompt
        for _ in range(2):
            ids = torch.cat([ids, made(ids).logits[:, -1].argmax(1)[:, None]], 1)
    assert torch.equal(said, ids)
    assert made.gate.weights is None


def test_random_answers_are_others() -> None:
    _, data = single()
    method = O3(**QUICK, answers="random")
    found = caught(
        method, llama(0, torch.float32), replace(data, forget=texts(of(1, 9, 25, 1), batch_size=10))
    )
    seen: list[Tensor] = []
    task = type(data.forget.task)
    original = task.labels

    def watch(self: Any, batch: Any) -> Tensor:
        labels = original(self, batch)
        seen.append(labels)
        return labels

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "labels", watch)
        found["objective"](found["student"], next(found["data"].batches()))
    true, taught = seen[0], seen[-1]
    counted = true != IGNORED
    assert torch.equal(taught == IGNORED, ~counted)
    assert not (taught == true)[counted].any()
    assert set(taught[counted].tolist()) <= set(range(1, 9))


def test_features_leave_padding_out() -> None:
    model, data = single()
    whole = pooled(model, data.retain)
    alone = pooled(model, replace(data.retain, batch_size=1))
    assert whole.shape == (12, 2, 16)
    assert torch.allclose(whole, alone, atol=1e-5)


def test_refusals() -> None:
    model, data = single()
    same = texts([Text([1, 2, 3], 2)] * 25, alternatives=[Text([1, 2, 4], 2)] * 25)
    few = replace(data, forget=data.forget.subset(range(19)))
    for make, message in (
        (lambda: O3().apply(model, few, rng=seeded(0)), "19 are too few"),
        (lambda: O3().apply(model, replace(data, forget=same), rng=seeded(0)), "all alike"),
        (lambda: O3(rank=17).apply(model, data, rng=seeded(0)), "17 orthogonal directions"),
        (lambda: O3(threshold=0.4), "soft gate"),
        (lambda: O3(gate="hard", floor=0.0), "hard gate"),
        (
            lambda: O3(rank=4).apply(O3(**QUICK).apply(model, data, rng=seeded(0)), data, rng=seeded(0)),
            "adapters of rank 2",
        ),
        (
            lambda: O3(**QUICK).apply(model, replace(data, forget=texts(of(1, 9, 25, 1))), rng=seeded(0)),
            "no `alternative`",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make()
