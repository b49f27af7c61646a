"""Momentum across layers: each rule against a loop in float64, and nothing changed where there is no momentum."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.moe_models import MOES, moe
from unweave import seeded
from unweave.errors import InputError
from unweave.experts import MomentumSMoE
from unweave.experts.momentum_smoe import Momentum
from unweave.models.moe import moe_layers

IDS = torch.arange(3, 15).reshape(2, 6)
WIDTH, LAYERS = 5, 4


class Residual(nn.Module):
    """x + block(norm(x)); without a norm if it is None."""

    def __init__(self, block: nn.Module, norm: nn.Module | None) -> None:
        super().__init__()
        self.block, self.norm = block, norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x if self.norm is None else self.norm(x))


def stack(*, norm: bool = True) -> nn.Sequential:
    rng = seeded(0)
    net = nn.Sequential(
        *(
            Residual(
                nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()),
                nn.LayerNorm(WIDTH) if norm else None,
            )
            for _ in range(LAYERS)
        )
    ).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=rng, dtype=torch.float64)
    return net


BLOCKS = tuple(f"{i}.block" for i in range(LAYERS))


def by_hand(net: nn.Sequential, x: Tensor, kind: str, mu: float, gamma: float, **k: Any) -> Tensor:
    """Every layer, written from the equations."""
    p = v = first = torch.zeros_like(x)
    before = x
    for i, layer in enumerate(net):

        def f(z: Tensor, layer: Any = layer) -> Tensor:
            return layer.block(z if layer.norm is None else layer.norm(z))

        if kind == "robust":
            kappa, rho, big = k["L"] / k["m"], k["rho"], k["L"]
            step = kappa * (1 - rho) ** 2 * (1 + rho) / big
            nu = rho**3 / ((kappa - 1) * (1 - rho) ** 2 * (1 + rho))
            p = kappa * rho**3 / (kappa - 1) * p + f(x + nu * (x - before))
            before, x = x, x + step * p
            continue
        g = f(x)
        if kind == "signum":
            p = mu * p + (1 - mu) * g
            x = x + gamma * p.sign()
            continue
        p = mu * p + g
        if kind == "adam" and (i == 0 or k["every"]):
            first, v = 0.8 * first + 0.2 * g, 0.9 * v + 0.1 * g**2
            x = x + 0.5 * first / (v + 1e-8).sqrt() - k["decay"] * x
        elif kind == "nesterov":
            x = x + gamma * (g + mu * p)
        else:
            x = x + gamma * p
    return x


ADAM = {"kind": "adam", "betas": (0.8, 0.9), "adam_gamma": 0.5}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"kind": "heavy ball", "mu": 0.6, "gamma": 0.4}, {}),
        ({"kind": "nesterov", "mu": 0.6, "gamma": 0.4}, {}),
        ({"kind": "signum", "mu": 0.6, "gamma": 0.4}, {}),
        ({**ADAM, "mu": 0.6, "gamma": 0.4}, {"every": False, "decay": 0}),
        ({**ADAM, "adam_layers": "all", "decay": 0.25}, {"every": True, "decay": 0.25}),
        (
            {"kind": "robust", "smoothness": 2.0, "convexity": 0.5, "rate": 0.6},
            {"L": 2.0, "m": 0.5, "rho": 0.6},
        ),
    ],
)
def test_each_rule_equals_its_equations(how: dict[str, Any], told: dict[str, Any]) -> None:
    x = torch.randn(2, 3, WIDTH, generator=seeded(1), dtype=torch.float64)
    for norm in (True, False):
        net = stack(norm=norm)
        expected = by_hand(net, x, how["kind"], how.get("mu", 0.7), how.get("gamma", 1.0), **told)
        wrapped = MomentumSMoE(blocks=BLOCKS[::-1], **how).adapt(net)
        assert torch.equal(net(x), MomentumSMoE(kind="none", blocks=BLOCKS).adapt(net)(x))
        for _ in range(2):  # the second pass begins anew
            torch.testing.assert_close(wrapped(x), expected, rtol=1e-12, atol=1e-12)
        assert (expected - net(x)).abs().max() > 1e-2


def test_the_range_of_stable_steps_is_that_of_heavy_balls() -> None:
    """f(x) = -A x with eigenvalues to 2.6: descent diverges, mu = 0.3 lies on the bound 2 (1 + mu), 0.5 converges."""
    values = torch.linspace(0.1, 2.6, 24, dtype=torch.float64)
    net = nn.Sequential(*(Residual(nn.Linear(24, 24, bias=False).double(), None) for _ in range(40)))
    q = torch.linalg.qr(torch.randn(24, 24, generator=seeded(2), dtype=torch.float64))[0]
    for layer in net:
        layer.block.weight.data = -(q * values) @ q.T
    start = torch.randn(1, 24, generator=seeded(3), dtype=torch.float64)
    names, ratio = tuple(f"{i}.block" for i in range(40)), {}
    for mu in (0.0, 0.3, 0.5, 0.7, 0.9):
        with torch.no_grad():
            end = MomentumSMoE(mu=mu, blocks=names).adapt(net)(start)
        parts = []
        for a in values.tolist():  # x and p of one eigenvector: a matrix of two rows
            step = torch.tensor([[1 - a, mu], [-a, mu]], dtype=torch.float64)
            parts.append(torch.linalg.matrix_power(step, 40)[0, 0])
        expected = torch.stack(parts) * (start @ q)
        torch.testing.assert_close(end @ q, expected, rtol=1e-6, atol=1e-12 * max(1, float(expected.norm())))
        ratio[mu] = float(end.norm() / start.norm())
    assert ratio[0.0] > 1e6
    assert 0.01 < ratio[0.3] < 1
    assert ratio[0.5] < 1e-4 < ratio[0.7] < 1e-2 < ratio[0.9] < 1


@pytest.mark.parametrize("name", MOES)
def test_without_momentum_every_layout_answers_to_the_bit_as_before(name: str) -> None:
    model = moe(name)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        same = MomentumSMoE(mu=0.0).adapt(model)(input_ids=IDS).logits
        other = MomentumSMoE().adapt(model)(input_ids=IDS).logits
        after = model(input_ids=IDS).logits
    assert torch.equal(before, same)
    assert torch.equal(before, after)
    assert (other - before).abs().max() > 1e-3


class Carrying(nn.Module):
    """A block with its momentum in a list, as one would write it into the model."""

    def __init__(self, block: nn.Module, held: list[Any]) -> None:
        super().__init__()
        self.block, self.held = block, held

    def forward(self, x: Tensor) -> Tensor:
        self.held[0] = 0.5 * self.held[0] + self.block(x)
        return 0.25 * self.held[0]


def test_a_model_of_transformers_equals_one_with_momentum_written_into_it() -> None:
    model = moe("mixtral")
    held: list[Any] = [0.0]
    written = deepcopy(model)
    for layer in written.model.layers:
        layer.mlp = Carrying(layer.mlp, held)
    how = MomentumSMoE(mu=0.5, gamma=0.25).adapt(model)
    with torch.no_grad():
        torch.testing.assert_close(
            how(input_ids=IDS).logits, written(input_ids=IDS).logits, rtol=1e-5, atol=1e-5
        )
    made = how.generate(
        IDS, max_new_tokens=5, do_sample=False, eos_token_id=None
    )  # with a cache, each pass from zero
    ids = IDS
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, how(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(made, ids)


def test_some_blocks_alone_and_the_authors_double_norm() -> None:
    model = moe("qwen3-moe")
    names = [m.name for m in moe_layers(model)]
    with torch.no_grad():
        one = MomentumSMoE(blocks=(names[1],)).adapt(model)(input_ids=IDS).logits
        assert torch.equal(one, model(input_ids=IDS).logits)  # there is none before it
        two = MomentumSMoE(blocks=tuple(names[::2])).adapt(model)
        assert not torch.equal(two(input_ids=IDS).logits, one)
        normed = MomentumSMoE(double_norm=True).adapt(model)
        seen: dict[str, Any] = {}
        block = normed.model.get_submodule(names[0])
        with normed.carrying():
            late = block.register_forward_hook(lambda m, a, o: seen.update(read=a[0], answer=o))
            normed.model(input_ids=IDS)
            late.remove()
        plain = block(seen["read"])
    torch.testing.assert_close(
        seen["answer"], nn.functional.layer_norm(seen["read"] + plain, (16,)), rtol=1e-4, atol=1e-5
    )
    assert normed.norms is not None
    assert len(normed.norms) == 3


@pytest.mark.parametrize("learn", ["shared", "blocks"])
def test_learned_factors_begin_at_the_given_ones_and_get_gradients(learn: Any) -> None:
    model = moe("olmoe")
    how: Momentum = MomentumSMoE(mu=0.4, gamma=0.6, learn=learn).adapt(model)
    fixed = MomentumSMoE(mu=0.4, gamma=0.6).adapt(model)
    out = how(input_ids=IDS).logits
    torch.testing.assert_close(out, fixed(input_ids=IDS).logits, rtol=1e-4, atol=1e-4)
    out.square().sum().backward()
    assert how.raw_mu.shape == (1,) if learn == "shared" else (3,)
    assert how.raw_mu.grad is not None
    assert how.raw_gamma.grad is not None
    assert float(how.raw_mu.grad[-1]) != 0
    assert float(how.raw_gamma.grad[0]) != 0


def test_momentum_in_half_precision_is_kept_in_float32() -> None:
    model = moe("mixtral").to(torch.bfloat16)
    out = MomentumSMoE(kind="adam", adam_layers="all").adapt(model)(input_ids=IDS).logits
    assert out.dtype == torch.bfloat16
    assert torch.isfinite(out).all()


def test_refuses_what_cannot_be_carried() -> None:
    for settings, told in (
        ({"mu": 1.0}, "mu must be"),
        ({"gamma": 0.0}, "gamma must be"),
        ({"kind": "robust", "rate": 0.5}, "from 0.6838 to 0.9"),
        ({"kind": "robust", "convexity": 1.0}, "above convexity"),
        ({"decay": 0.5}, "would do nothing"),
        ({"kind": "none", "mu": 0.5}, "would do nothing"),
        ({"mu": 0.0, "learn": "shared"}, "cannot be learned"),
    ):
        with pytest.raises(InputError, match=told):
            MomentumSMoE(**settings)
    with pytest.raises(InputError, match="must name modules"):
        MomentumSMoE(blocks=("9.block",)).adapt(stack())
    uneven = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6))
    with pytest.raises(InputError, match="blocks of one width"):
        MomentumSMoE(blocks=("0", "1")).adapt(uneven)(torch.zeros(2, 4))
    model = moe("mixtral")
    on = "activation_checkpointing_enable"
    getattr(model, on if hasattr(model, on) else "gradient_checkpointing_enable")()
    with pytest.raises(InputError, match="checkpointing"):
        MomentumSMoE().adapt(model).train()(input_ids=IDS)
