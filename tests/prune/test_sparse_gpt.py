from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import Conv2d, Flatten, Linear, Module, Sequential

from tests.contract import world
from tests.language_world import llama, text
from unweave import Mask, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.masks import select
from unweave.prune import (
    NM,
    Global,
    Magnitude,
    PerOutput,
    Prune,
    Scope,
    SparseGPT,
    Unstructured,
    Wanda,
    WandaPrune,
)
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


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4)])
def test_a_refit_is_least_squares_on_the_mask_that_the_paper_chooses(pattern: object) -> None:
    weight, x = problem(out=6, inputs=16, n=60)
    x[:, 5] = 0
    weight[0, 3] = 0
    gram, damping = x.T @ x, 0.01
    plain = repair("w", weight, gram, SparseGPT(pattern=pattern, damping=damping))
    found = repair("w", weight, gram, SparseGPT(pattern=pattern, damping=damping, refit=True))
    assert torch.equal(found != 0, plain != 0)
    diagonal = gram.diagonal().clone()
    diagonal[5] = 1
    hessian = gram.clone()
    hessian.diagonal().copy_(diagonal + damping * diagonal.mean())
    dense = weight.clone()
    dense[:, 5] = 0
    for row, kept, wanted in zip(found, plain != 0, dense, strict=True):
        fit = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ wanted)
        torch.testing.assert_close(row[kept], fit, rtol=1e-4, atol=1e-5)

    def error(pruned: Tensor) -> Tensor:
        return ((dense - pruned) @ hessian * (dense - pruned)).sum(1)

    assert (error(found) <= error(plain) * (1 + 1e-9)).all()
    assert float(error(found).sum()) < 0.95 * float(error(plain).sum())


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


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4)])
def test_a_layer_answers_best_after_repair_then_by_wanda_then_by_magnitude(pattern: object) -> None:
    # inputs that differ in size and hang together: size alone misjudges, and neighbours can answer for what went
    rng = seeded(1)
    x = torch.relu(torch.randn(2000, 64, generator=rng) @ torch.randn(64, 64, generator=rng) / 8 + 0.3)
    x *= torch.logspace(-0.5, 0.5, 64)[torch.randperm(64, generator=rng)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sequential(Linear(64, 64, bias=False))
    data = of_tensors(x, torch.arange(2000) % 64, batch_size=500)
    how = {"sparsity": 0.5, "pattern": pattern, "examples": 2000}
    edits = (
        SparseGPT(**how),
        WandaPrune(**how),
        Prune(score=Magnitude(), pattern=pattern, budget=PerOutput(0.5)),
    )
    repaired, wanda, magnitude = (
        float((x @ (model[0].weight - e.apply(model, data, rng=rng)[0].weight).T).square().mean().detach())
        for e in edits
    )
    assert repaired < 0.65 * wanda
    assert wanda < 0.7 * magnitude


def test_wanda_layer_by_layer_by_hand() -> None:
    # inputs (3, 1) and (4, 1), norms 5 and 1.4: rows (1, 3) and (2, 3) keep 5 over 4.2 and 10 over 4.2, so the hidden
    # units are x1 and 2 x1, norms 5 and 10, and (3, 2) keeps the 2 (20 over 15). Unpruned they would be (6, 7) and
    # (9, 11), norms 9.2 and 14.2, and the 2 would still win; (1, 0.55) tells the two apart: 5 < 5.5, but 9.2 > 7.8
    model = Sequential(Linear(2, 2, bias=False), Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 3.0], [2.0, 3.0]]))
        model[1].weight.copy_(torch.tensor([[3.0, 2.0], [1.0, 0.55]]))
    data = of_tensors(torch.tensor([[3.0, 1.0], [4.0, 1.0]]), torch.tensor([0, 1]))
    pruned = WandaPrune(sparsity=0.5).apply(model, data, rng=seeded(0))
    assert pruned[0].weight.tolist() == [[1.0, 0.0], [2.0, 0.0]]
    torch.testing.assert_close(pruned[1].weight.detach(), torch.tensor([[0.0, 2.0], [0.0, 0.55]]))
    at_once = select(Wanda().score(model, data), budget=PerOutput(0.5))
    assert at_once.keep["1.weight"].tolist() == [[False, True], [True, False]]


def test_wanda_of_a_convolution_by_n_of_m() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sequential(Conv2d(4, 6, 3, stride=2, padding=1), Flatten(), Linear(6 * 9, 3))
    data = of_tensors(torch.randn(5, 4, 6, 6, generator=seeded(0)), torch.arange(5) % 3)
    scope = Scope(last=False)
    by_layer = WandaPrune(pattern=NM(2, 4), scope=scope).apply(model, data, rng=seeded(0))
    at_once = Prune(score=Wanda(scope=scope), pattern=NM(2, 4)).apply(model, data, rng=seeded(0))
    assert torch.equal(by_layer[0].weight, at_once[0].weight)  # the first layer sees the same either way
    assert ((by_layer[0].weight.movedim(1, -1) != 0).sum(-1) == 2).all()


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


def test_a_head_is_pruned_where_the_scope_names_it() -> None:
    model, data = llama(), text()
    scope = Scope(only=("lm_head", "*.mlp.*"))
    pruned = SparseGPT(sparsity=0.5, scope=scope).apply(model, data, rng=seeded(0))
    for name, _, weight in scope.layers(pruned):
        assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.02), name
    assert torch.equal(
        pruned.model.layers[0].self_attn.q_proj.weight, model.model.layers[0].self_attn.q_proj.weight
    )


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
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


def test_plain_networks_are_walked_in_call_order() -> None:
    model, data = world.model(), world.points()[0]
    pruned = SparseGPT(sparsity=0.5).apply(model, data, rng=seeded(0))
    by_magnitude = Prune(budget=Global(0.5)).apply(model, data, rng=seeded(0))
    assert errors(model, pruned, data) < errors(model, by_magnitude, data)
    assert Mask.of(pruned).density() == pytest.approx(0.5, abs=0.02)


def test_convolutions_by_n_of_m() -> None:
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
        (partial(SparseGPT, pattern=NM(1, 4), sparsity=0.6), r"sparsity=0\.6 would do nothing"),
        (partial(WandaPrune, pattern=NM(1, 4), sparsity=0.6), r"sparsity=0\.6 would do nothing"),
        (lambda: SparseGPT().apply(world.model(), data, rng=None), "torch.Generator"),
        (lambda: WandaPrune().apply(world.model(), data, rng=None), "torch.Generator"),
    ):
        with pytest.raises(InputError, match=match):
            make()
    with pytest.raises(InputError, match="fits no weight in scope"):
        SparseGPT(pattern=NM(2, 5), block=5).apply(world.model(), data, rng=seeded(0))

    class Idle(Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = Linear(8, 3), Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    with pytest.raises(InputError, match="idle.weight is never called"):
        SparseGPT().apply(Idle(), data, rng=seeded(0))


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4)])
def test_transposed_linear_layers_are_pruned_as_linear_ones(pattern: object) -> None:
    transformers = pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = Sequential(Linear(8, 12), torch.nn.ReLU(), Linear(12, 4))
    turned = Sequential(transformers.Conv1D(12, 8), torch.nn.ReLU(), transformers.Conv1D(4, 12))
    with torch.no_grad():
        for i in (0, 2):
            turned[i].weight.copy_(plain[i].weight.T)
            turned[i].bias.copy_(plain[i].bias)
    data = of_tensors(torch.randn(40, 8, generator=seeded(0)), torch.arange(40) % 4)
    for edit in (SparseGPT(pattern=pattern), WandaPrune(pattern=pattern)):
        a, b = (edit.apply(m, data, rng=seeded(0)) for m in (plain, turned))
        for i in (0, 2):
            torch.testing.assert_close(b[i].weight.T, a[i].weight)
            assert int((b[i].weight == 0).sum()) == b[i].weight.numel() // 2
