from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import Conv2d, Linear, Module, Sequential

from tests.contract import world
from tests.language_world import llama, text
from unweave import Mask, seeded
from unweave.errors import InputError
from unweave.prune import NM, Global, Prune, Scope, SparseGPT, WandaPrune
from unweave.prune._layerwise import inputs_of
from unweave.prune.sparse_gpt import _factor, repair
from unweave.tasks import evaluating


def problem(out: int = 5, inputs: int = 12, n: int = 40) -> tuple[Tensor, Tensor]:
    rng = seeded(0)
    mix = torch.randn(inputs, inputs, generator=rng, dtype=torch.float64)
    return torch.randn(out, inputs, generator=rng, dtype=torch.float64), torch.randn(
        n, inputs, generator=rng, dtype=torch.float64
    ) @ mix


def naive(weight: Tensor, gram: Tensor, sparsity: float, damping: float, block: int) -> Tensor:
    """Algorithm 1 of the paper, entry by entry, with the inverse and its Cholesky taken one after the other."""
    h = gram.clone()
    h += torch.eye(len(h), dtype=h.dtype) * damping * h.diagonal().mean()
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    w = weight.clone()
    for low in range(0, w.shape[1], block):
        high = min(low + block, w.shape[1])
        worth = (w[:, low:high] / u.diagonal()[low:high]) ** 2
        cut = worth.flatten().sort().values[round(sparsity * worth.numel()) - 1]
        kept = worth > cut
        for i in range(low, high):
            for r in range(w.shape[0]):
                if not kept[r, i - low]:
                    error = w[r, i] / u[i, i]
                    w[r, i:] -= error * u[i, i:]
                    w[r, i] = 0
    return w


@pytest.mark.parametrize("block", [4, 12, 128])
def test_is_the_algorithm(block: int) -> None:
    weight, x = problem()
    how = SparseGPT(sparsity=0.5, damping=0.01, block=block)
    torch.testing.assert_close(
        repair("w", weight, x.T @ x, how), naive(weight, x.T @ x, 0.5, 0.01, block), rtol=1e-8, atol=1e-9
    )


def test_the_factor_is_that_of_the_inverse() -> None:
    _, x = problem()
    gram = x.T @ x
    factor, unused = _factor("w", gram, 0.01)
    damped = gram + torch.eye(12, dtype=gram.dtype) * 0.01 * gram.diagonal().mean()
    torch.testing.assert_close(factor, torch.linalg.cholesky(torch.linalg.inv(damped), upper=True))
    assert not unused.any()


def test_one_removed_weight_is_refitted_by_least_squares() -> None:
    # only the first column is removed: all others may answer, so the repair is the least-squares fit without it
    _, x = problem(out=1)
    weight = torch.tensor([[1e-3, *[2.0] * 11]], dtype=torch.float64)
    pruned = repair("w", weight, x.T @ x, SparseGPT(sparsity=1 / 12, damping=1e-12))
    assert pruned[0, 0] == 0
    fit = torch.linalg.lstsq(x[:, 1:], x @ weight[0]).solution
    torch.testing.assert_close(pruned[0, 1:], fit, rtol=1e-6, atol=1e-8)


def test_inputs_that_are_always_zero_lose_their_weights() -> None:
    weight, x = problem()
    x[:, 3] = 0
    assert not repair("w", weight, x.T @ x, SparseGPT(sparsity=0.25))[:, 3].any()


@pytest.mark.parametrize("pattern", [NM(2, 4), NM(1, 4)])
def test_n_of_m(pattern: NM) -> None:
    weight, x = problem()
    pruned = repair("w", weight, x.T @ x, SparseGPT(pattern=pattern))
    assert ((pruned.view(5, 3, 4) != 0).sum(-1) == pattern.n).all()


@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, "same", 2), (1, "valid", 1)]
)
def test_rows_of_a_convolution_multiply_its_weight(stride: int, padding: object, dilation: int) -> None:
    layer = Conv2d(3, 4, 3, stride=stride, padding=padding, dilation=dilation, bias=False)
    x = torch.randn(2, 3, 9, 9, generator=seeded(0))
    rows = inputs_of(layer, x) @ layer.weight.flatten(1).T
    torch.testing.assert_close(rows, layer(x).flatten(2).transpose(1, 2).reshape(-1, 4), rtol=1e-4, atol=1e-5)


def errors(model: Module, pruned: Module, data: object) -> float:
    with evaluating(model), evaluating(pruned):
        batch = next(data.batches())
        return float((data.task.outputs(model, batch) - data.task.outputs(pruned, batch)).square().mean())


def test_repairs_better_than_choosing_alone() -> None:
    rng = seeded(1)
    x = (
        torch.randn(2000, 64, generator=rng, dtype=torch.float64)
        @ torch.randn(64, 64, generator=rng, dtype=torch.float64)
        / 8
    )
    x, weight = torch.relu(x + 0.3), torch.randn(64, 64, generator=rng, dtype=torch.float64)

    def error(pruned: Tensor) -> float:
        return float((x @ (weight - pruned).T).square().mean())

    def best(scores: Tensor) -> Tensor:
        return weight * torch.zeros_like(weight).scatter_(1, scores.topk(32, dim=1).indices, 1.0)

    wanda, magnitude = best(weight.abs() * x.square().sum(0).sqrt()), best(weight.abs())
    assert error(repair("w", weight, x.T @ x, SparseGPT(sparsity=0.5))) < 0.65 * error(wanda)
    assert error(wanda) < 0.95 * error(magnitude)


def test_prunes_a_language_models_blocks_and_nothing_else() -> None:
    model, data = llama(), text()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    scope = Scope(last=False)
    found = {
        "sparsegpt": SparseGPT(sparsity=0.7, scope=scope).apply(model, data, rng=seeded(0)),
        "wanda": WandaPrune(sparsity=0.7, scope=scope).apply(model, data, rng=seeded(0)),
    }
    assert errors(model, found["sparsegpt"], data) < errors(model, found["wanda"], data)
    for pruned in found.values():
        for name, weight in pruned.named_parameters():
            if "layers" in name and weight.ndim == 2:
                assert float((weight == 0).float().mean()) == pytest.approx(0.7, abs=0.02)
        assert torch.equal(pruned.lm_head.weight, before["lm_head.weight"])
        assert torch.equal(pruned.model.embed_tokens.weight, before["model.embed_tokens.weight"])


def test_blocks_are_walked_with_the_pruned_outputs() -> None:
    """Block by block gives what running the whole model for each block would."""
    model, data = llama().double(), text(320)
    fast = SparseGPT(sparsity=0.6).apply(model, data, rng=seeded(0))
    from copy import deepcopy

    slow = deepcopy(model)
    for block in slow.model.layers:
        layers = {n: m for n, m in block.named_modules() if isinstance(m, Linear)}
        grams = {n: torch.zeros(m.in_features, m.in_features, dtype=torch.float64) for n, m in layers.items()}
        hooks = [
            m.register_forward_pre_hook(
                lambda m, a, n=n, grams=grams: (
                    grams[n].addmm_(inputs_of(m, a[0]).T, inputs_of(m, a[0])),
                    None,
                )[1]
            )
            for n, m in layers.items()
        ]
        with torch.no_grad():
            for batch in data.batches():
                data.task.outputs(slow, batch)
            for hook in hooks:
                hook.remove()
            for n, m in layers.items():
                m.weight.copy_(repair(n, m.weight, grams[n], SparseGPT(sparsity=0.6)))
    for (name, a), (_, b) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=name)


def test_plain_networks_are_walked_in_call_order() -> None:
    model, data = world.model(), world.points()[0]
    pruned = SparseGPT(sparsity=0.5).apply(model, data, rng=seeded(0))
    by_magnitude = Prune(budget=Global(0.5)).apply(model, data, rng=seeded(0))
    assert errors(model, pruned, data) < errors(model, by_magnitude, data)
    assert Mask.of(pruned).density() == pytest.approx(0.5, abs=0.02)


def test_convolutions_by_n_of_m() -> None:
    from unweave.datasets import of_tensors

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sequential(Conv2d(4, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), Linear(8 * 16, 3))
    rng = seeded(0)
    data = of_tensors(torch.randn(32, 4, 6, 6, generator=rng), torch.arange(32) % 3)
    pruned = SparseGPT(pattern=NM(2, 4)).apply(model, data, rng=rng)
    groups = (pruned[0].weight.movedim(1, -1) != 0).sum(-1)
    assert (groups == 2).all()
    assert errors(model, pruned, data) < errors(
        model, Prune(pattern=NM(2, 4)).apply(model, data, rng=rng), data
    )


def test_refuses() -> None:
    data = world.points()[0]
    for make, match in (
        (partial(SparseGPT, sparsity=1.0), "sparsity"),
        (partial(SparseGPT, damping=0.0), "damping"),
        (partial(SparseGPT, pattern=NM(2, 4), block=6), "multiple of 4"),
        (partial(WandaPrune, sparsity=1.0), "sparsity"),
    ):
        with pytest.raises(InputError, match=match):
            make()
    with pytest.raises(InputError, match="not a multiple of 5"):
        SparseGPT(pattern=NM(2, 5), block=5).apply(world.model(), data, rng=seeded(0))

    class Idle(Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = Linear(8, 3), Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(InputError, match="idle.weight is never called"):
        SparseGPT().apply(Idle(), data, rng=seeded(0))
