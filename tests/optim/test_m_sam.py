from __future__ import annotations

from copy import deepcopy
from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import BatchNorm1d, Linear, Module, ReLU, Sequential
from torch.optim import SGD

from unweave import fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.optim import MSAM, SAM, Modalities


class Two(Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b, self.head = (
                Sequential(Linear(3, 6), BatchNorm1d(6), ReLU()),
                Sequential(Linear(3, 6), ReLU()),
                Linear(12, 2),
            )

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(torch.cat([self.a(inputs["a"]), self.b(inputs["b"])], 1))


def read(batch: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    x, y = batch
    return {"a": x[:, :3], "b": x[:, 3:]}, y


def modalities(**kw) -> Modalities:
    return Modalities(("a", "b"), read, lambda m, i: m(i), **kw)


def data(noise_b: bool = True):
    rng = seeded(0)
    y = torch.arange(60) % 2
    x = torch.randn(60, 6, generator=rng)
    x[:, :3] += 2 * y[:, None] - 1
    if not noise_b:
        x[:, 3:] = x[:, :3]
    return of_tensors(x, y, classes=2, batch_size=60)


def step(make, parts: Modalities, objective=None, model: Module | None = None) -> Module:
    net = Two() if model is None else deepcopy(model)
    net.eval()  # batch statistics aside: the identity is about gradients
    batch = next(data().batches())
    optimizer = make(net.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (objective or parts.objective)(net, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    return net


def test_batchwise_it_is_a_mean_of_sam_and_sgd() -> None:
    parts = modalities()
    mixed = step(lambda p: MSAM(p, parts, lr=0.5, rho=0.4), parts)
    v = float(parts.shares[parts.dominant])
    assert 0.5 <= v <= 1
    plain = modalities()
    sam = step(lambda p: SAM(p, lr=0.5, rho=0.4), plain)
    sgd = step(lambda p: SGD(p, lr=0.5), plain)
    for m, a, b in zip(mixed.parameters(), sam.parameters(), sgd.parameters(), strict=True):
        torch.testing.assert_close(m, v * a + (1 - v) * b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("v", "like"), [(1.0, SAM), (0.0, SGD)])
def test_its_ends_are_sam_and_sgd(v: float, like: type) -> None:
    parts = modalities()
    parts.contributions = lambda model, batch: torch.tensor([v, -1.0])  # type: ignore[method-assign]
    found = step(lambda p: MSAM(p, parts, lr=0.5, rho=0.4), parts)
    plain = modalities()
    kw = {"rho": 0.4} if like is SAM else {}
    expected = step(lambda p: like(p, lr=0.5, **kw), plain)
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_shapley_values_are_means_over_all_orders_and_sum_to_the_whole() -> None:
    torch.manual_seed(0)
    three = Modalities(
        ("x", "y", "z"), lambda b: b, lambda m, i: i["x"] * i["y"] + i["z"], value="probability"
    )
    inputs = {n: torch.randn(5, 4, generator=seeded(k)) for k, n in enumerate("xyz")}
    labels = torch.arange(5) % 4
    found = three.shapley(Linear(1, 1), (inputs, labels))

    def value(present: set[str]) -> Tensor:
        shown = {n: t if n in present else torch.zeros_like(t) for n, t in inputs.items()}
        return (shown["x"] * shown["y"] + shown["z"]).softmax(1).gather(1, labels[:, None])[:, 0]

    for k, name in enumerate("xyz"):
        gains = [
            value({*order[: order.index(name)], name}) - value({*order[: order.index(name)]})
            for order in permutations("xyz")
        ]
        torch.testing.assert_close(found[:, k], torch.stack(gains).mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(1), value({"x", "y", "z"}) - value(set()), rtol=1e-5, atol=1e-6)


def test_equal_modalities_have_equal_shares_and_noise_has_none() -> None:
    net = Two()
    net.b.load_state_dict({"0.weight": net.a[0].weight, "0.bias": net.a[0].bias})
    net.a[1] = torch.nn.Identity()
    with torch.no_grad():
        net.head.weight[:, 6:] = net.head.weight[:, :6]
    same = modalities().contributions(net, next(data(noise_b=False).batches()))
    torch.testing.assert_close(same, torch.tensor([0.5, 0.5]), atol=1e-5, rtol=0)
    parts, picked = modalities(), []
    model = Two()

    def watch(step) -> None:
        picked.append(parts.dominant)

    fit_(
        model,
        data(),
        parts.objective,
        MSAM(model.parameters(), parts, lr=0.2, momentum=0.9),
        epochs=40,
        rng=seeded(0),
        after_step=watch,
    )
    assert sum(p == 0 for p in picked[5:]) >= 0.9 * len(picked[5:])


def test_coalitions_leave_statistics_and_mode_alone() -> None:
    net, parts = Two(), modalities()
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    parts.contributions(net, next(data().batches()))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training


def test_by_sample_and_by_encoder_perturb_otherwise() -> None:
    steps = {}
    for kind in ("batch", "sample", "encoder"):
        parts, net = modalities(), Two()
        net.eval()
        groups = [
            {"params": net.a.parameters(), "modality": "a"},
            {"params": net.b.parameters(), "modality": "b"},
            {"params": net.head.parameters()},
        ]
        optimizer = MSAM(groups, parts, lr=0.5, rho=0.4, decomposition=kind)
        batch, moved = next(data().batches()), []

        def closure(net=net, parts=parts, optimizer=optimizer, batch=batch, moved=moved) -> Tensor:
            optimizer.zero_grad()
            moved.append({n: p.detach().clone() for n, p in net.named_parameters()})
            loss = parts.objective(net, batch)
            loss.backward()
            return loss

        optimizer.step(closure)
        steps[kind] = {n: moved[-1][n] - moved[0][n] for n in moved[0]}
    flat = {k: torch.cat([t.flatten() for t in v.values()]) for k, v in steps.items()}
    assert torch.nn.functional.cosine_similarity(flat["batch"], flat["sample"], 0) < 0.9999
    for name, change in steps["encoder"].items():
        assert bool(change.any()) is name.startswith(f"{parts.names[parts.dominant]}.")
    assert float(flat["encoder"].norm()) == pytest.approx(0.4, rel=1e-4)


def test_refuses() -> None:
    with pytest.raises(InputError, match="different ones"):
        Modalities(("a", "a"), read, lambda m, i: m(i))
    with pytest.raises(InputError, match="at most 4"):
        Modalities(tuple("abcde"), read, lambda m, i: m(i))
    with pytest.raises(InputError, match="has no c; it has a, b"):
        Modalities(("a", "c"), read, lambda m, i: m(i)).objective(Two(), next(data().batches()))


def gradients(net: Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


def step_of(kind: str) -> tuple[Module, list[Tensor], Modalities]:
    """A step in float64, with the weights before it."""
    parts, net = modalities(), Two().double().eval()
    x, y = next(data().batches())
    groups = [
        {"params": net.a.parameters(), "modality": "a"},
        {"params": net.b.parameters(), "modality": "b"},
        {"params": net.head.parameters()},
    ]
    first = SGD(net.parameters(), lr=0.5)
    for _ in range(10):  # until a modality helps
        first.zero_grad()
        each_loss(net).mean().backward()
        first.step()
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = MSAM(groups, parts, lr=0.5, rho=0.4, decomposition=kind)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parts.objective(net, (x.double(), y))
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    with torch.no_grad():
        after = [p.clone() for p in net.parameters()]
        for p, b in zip(net.parameters(), before, strict=True):
            p.copy_(b)
    assert float(loss.detach()) == pytest.approx(float(each_loss(net).mean().detach()), rel=1e-9)
    assert optimizer.backwards == (3 if kind == "sample" else 2)
    return net, after, parts


def each_loss(net: Module) -> Tensor:
    x, y = next(data().batches())
    return torch.nn.functional.cross_entropy(net(read((x.double(), y))[0]), y, reduction="none")


def climbed(net: Module, way: list[Tensor], rho: float) -> Module:
    length = torch.cat([w.flatten() for w in way]).norm()
    other = deepcopy(net)
    with torch.no_grad():
        for p, w in zip(other.parameters(), way, strict=True):
            p.add_(rho * w / length)
    return other


@pytest.mark.parametrize("kind", ["batch", "sample", "encoder"])
def test_each_decomposition_by_its_equation(kind: str) -> None:
    net, after, parts = step_of(kind)
    plain = gradients(net, each_loss(net).mean())
    if kind == "sample":
        share = parts.shares[:, parts.dominant].double()
        assert parts.shares.shape == (60, 2)
        there = climbed(net, gradients(net, (share * each_loss(net)).mean()), 0.4)
        update = gradients(there, (share * each_loss(there)).mean())
        rest = gradients(net, ((1 - share) * each_loss(net)).mean())
    else:
        v = float(parts.shares[parts.dominant])
        assert 0.5 < v < 1
        name = f"{parts.names[parts.dominant]}."
        way = [
            g if kind == "batch" or n.startswith(name) else torch.zeros_like(g)
            for (n, _), g in zip(net.named_parameters(), plain, strict=True)
        ]
        there = climbed(net, way, 0.4)
        update = [v * g for g in gradients(there, each_loss(there).mean())]
        rest = [(1 - v) * g for g in plain]
    for p, a, u, r in zip(net.parameters(), after, update, rest, strict=True):
        torch.testing.assert_close(a, p.detach() - 0.5 * (u + r), rtol=1e-6, atol=1e-9)


def test_the_value_is_accuracy_with_ties_broken_by_a_thousandth_of_the_probability() -> None:
    logits = {"a": torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "b": torch.tensor([[0.0, 3.0], [0.0, 1.0]])}
    batch = (logits, torch.tensor([0, 1]))
    parts = Modalities(("a", "b"), lambda b: b, lambda m, i: i["a"] + i["b"])
    found = parts.shapley(Linear(1, 1), batch)

    def value(present: str, k: int) -> float:
        z = sum((logits[n][k] for n in present), torch.zeros(2))
        right = float(z.softmax(0)[batch[1][k]])
        return float(int(z.argmax()) == int(batch[1][k])) + 1e-3 * right

    for k in (0, 1):
        none, a, b, both = (value(p, k) for p in ("", "a", "b", "ab"))
        expected = [(a - none + both - b) / 2, (b - none + both - a) / 2]
        torch.testing.assert_close(found[k], torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_shares_are_positive_parts_and_equal_where_no_modality_helps() -> None:
    parts = modalities()
    table = torch.tensor([[0.3, -0.1, 0.2], [-0.1, -0.3, 0.0], [0.1, 0.1, 0.1]])
    three = Modalities(("x", "y", "z"), lambda b: b, lambda m, i: i)
    three.shapley = lambda model, batch: table  # type: ignore[method-assign]
    mean = torch.tensor([0.1, 0.0, 0.1])
    torch.testing.assert_close(three.contributions(Linear(1, 1), None), mean / mean.sum())
    three.by_sample = True
    expected = torch.tensor([[0.6, 0.0, 0.4], [1 / 3] * 3, [1 / 3] * 3])
    torch.testing.assert_close(three.contributions(Linear(1, 1), None), expected)
    three.shares = expected
    assert three.dominant == 0
    assert parts.shares.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("absent", ["zeros", "mean"])
def test_what_stands_for_a_modality_that_is_left_out(absent: str) -> None:
    shown = []
    parts = Modalities(("a", "b"), read, lambda m, i: (shown.append(i), i["a"][:, :2])[1], absent=absent)
    x, y = torch.arange(24.0).view(4, 6), torch.tensor([0, 1, 0, 1])
    parts.shapley(Linear(1, 1), (x, y))
    a = torch.zeros(4, 3) if absent == "zeros" else torch.tensor([9.0, 10.0, 11.0]).expand(4, 3)
    b = torch.zeros(4, 3) if absent == "zeros" else torch.tensor([12.0, 13.0, 14.0]).expand(4, 3)
    pairs = [(a, b), (x[:, :3], b), (a, x[:, 3:]), (x[:, :3], x[:, 3:])]
    assert len(shown) == 4
    for i, (one, two) in zip(shown, pairs, strict=True):
        assert torch.equal(i["a"], one)
        assert torch.equal(i["b"], two)


def test_shares_are_those_at_the_weights_before_the_step_and_the_part_is_reset() -> None:
    parts, net, calls = modalities(), Two().eval(), []
    optimizer = MSAM(net.parameters(), parts, lr=0.5, rho=0.4)
    batch = next(data().batches())
    counted = parts.contributions
    parts.contributions = lambda model, b: (calls.append(parts.part), counted(model, b))[1]  # type: ignore[method-assign]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parts.objective(net, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls == ["all"]
    assert parts.part == "all"
