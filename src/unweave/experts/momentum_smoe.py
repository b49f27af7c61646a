"""MomentumSMoE: momentum across the layers of a stack of residual mixtures of experts.

Teo, Nguyen, "MomentumSMoE: Integrating Momentum into Sparse Mixture of Experts", NeurIPS 2024
(https://arxiv.org/abs/2410.14574). A residual layer x + f_l(x) is read as a step of gradient descent, f_l being what
the experts answer, and the step is replaced:

    heavy ball  p = mu p + f;  x + gamma p
    nesterov    p = mu p + f;  x + gamma (f + mu p)
    signum      p = mu p + (1 - mu) f;  x + gamma sign(p)
    adam        p = b1 p + (1 - b1) f;  v = b2 v + (1 - b2) f^2;  x + adam_gamma p / sqrt(v + 1e-8) - decay x
    robust      y = x + nu (x - x of the block before);  p = mu p + f(y);  x + step p

with p, v = 0 before the first block, for each token of each forward pass; no state passes from token to token. The
signs are those of a trained model, so mu = 0 and gamma = 1 leave it as it was. Robust momentum takes step, mu and nu
from L, m and rho: kappa = L / m, step = kappa (1 - rho)^2 (1 + rho) / L, mu = kappa rho^3 / (kappa - 1),
nu = rho^3 / ((kappa - 1) (1 - rho)^2 (1 + rho)).

Decided here: x of robust momentum and of decay is the residual stream where the block's norm reads it, and the step
before it that at the block before (attention in between included). As in the authors' code Adam steps only in the first
block unless `adam_layers="all"`; the heavy ball's momentum runs through that block too. There an outer residual keeps x
whatever the decay, so the decay is 0 here unless given. p and v are float32 or wider.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import expm1, log
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import LayerNorm, Module, ModuleList, Parameter

from ..errors import InputError
from ..masks.layers import copied
from ..models.moe import moe_layers
from ..paper import Paper
from ..settings import Inner, Part, Positive, Share, refuse_idle, settings

_EPS = 1e-8  # under Adam's root
_LEARNED = ("heavy ball", "nesterov", "signum")


@settings
class MomentumSMoE:
    """Carry momentum from one mixture of experts of a model to the next.

    Attributes:
        kind: how the steps are joined; "none" leaves them as they are, for comparison.
        mu: share of the momentum kept from block to block.
        gamma: size of the step. The momentum adds up to 1 / (1 - mu) answers, so a deep model may want 1 - mu.
        learn: whether mu and gamma are trained, from these values: one of each for all blocks ("shared"), or each
            block's own.
        betas: b1 and b2 of Adam.
        adam_gamma: size of Adam's step.
        adam_layers: where Adam steps; the blocks after the first are heavy balls unless "all".
        decay: share of x that Adam's step takes away.
        smoothness: L of robust momentum.
        convexity: m of robust momentum, below L.
        rate: rho of robust momentum, from 1 - 1 / sqrt(L / m) to 1 - m / L.
        double_norm: the block answers LayerNorm(h + step) for what it reads, h, as in the authors' code; no setting
            then is the plain model.
        blocks: paths of the blocks, for dense feed-forwards or some of the layers; every mixture of experts unless
            given.
    """

    kind: Literal["none", "heavy ball", "nesterov", "adam", "robust", "signum"] = "heavy ball"
    mu: Part = 0.7
    gamma: Positive = 1.0
    learn: Literal["no", "shared", "blocks"] = "no"
    betas: tuple[Part, Part] = (0.9, 0.999)
    adam_gamma: Positive = 0.8
    adam_layers: Literal["first", "all"] = "first"
    decay: Share = 0.0
    smoothness: Positive = 1.0
    convexity: Positive = 0.1
    rate: Inner = 0.8
    double_norm: bool = False
    blocks: tuple[str, ...] | None = None

    paper: ClassVar[Paper] = Paper(
        "MomentumSMoE: Integrating Momentum into Sparse Mixture of Experts", "Teo, Nguyen", "NeurIPS", 2024,
        "2410.14574",
    )  # fmt: skip

    def __post_init__(self) -> None:
        when = f"with kind={self.kind!r}"
        if self.kind != "adam":
            refuse_idle(self, "betas", "adam_gamma", "adam_layers", "decay", when=when)
        if self.kind != "robust":
            refuse_idle(self, "smoothness", "convexity", "rate", when=when)
        if self.kind in ("none", "robust") or (self.kind == "adam" and self.adam_layers == "all"):
            refuse_idle(self, "mu", "gamma", when=when)
        if self.kind not in _LEARNED:
            refuse_idle(self, "learn", when=when)
        if self.kind == "none":
            refuse_idle(self, "double_norm", when=when)
        if self.learn != "no" and self.mu == 0:
            raise InputError(
                "MomentumSMoE.mu=0 cannot be learned: a sigmoid never reaches it. Start above 0, at 0.01."
            )
        if self.kind == "robust":
            _robust(self.smoothness, self.convexity, self.rate)

    def adapt(self, model: Module) -> Momentum:
        """A copy of `model` whose blocks carry momentum, as a module around it.

        Args:
            model: whose blocks answer what is added to the residual stream; left unchanged.

        Raises:
            InputError: if it has no mixture of experts and no blocks are named, or lacks one that is.
        """
        inner = copied(model)
        found = (
            [moe.name for moe in moe_layers(inner, "MomentumSMoE")] if self.blocks is None else self.blocks
        )
        known = [name for name, _ in inner.named_modules()]
        lost = [name for name in found if not name or name not in known]
        if lost or not found:
            raise InputError(
                f"MomentumSMoE.blocks must name modules of this {type(model).__name__}; got "
                f"{lost[0] if lost else '()'!r}. Give paths of feed-forwards, as named_modules() lists them."
            )
        return Momentum(inner, self, sorted(set(found), key=known.index))


@dataclass
class State:
    """What one forward pass carries from block to block, token by token [tokens, H]; zeros before the first.

    Attributes:
        p: the momentum.
        v: Adam's mean square.
        first: Adam's own mean.
        x: the residual stream at the block before.
        at: blocks passed.
    """

    p: Tensor | None = None
    v: Tensor | None = None
    first: Tensor | None = None
    x: Tensor | None = None
    at: int = 0


class Momentum(Module):
    """A model whose blocks carry momentum while it runs; the model itself, `.model`, stays plain.

    Args:
        model: held, not copied.
        how: the rule.
        blocks: paths in the model, in the order of its modules.
    """

    def __init__(self, model: Module, how: MomentumSMoE, blocks: Sequence[str]) -> None:
        super().__init__()
        self.model, self.how, self.blocks = model, how, tuple(blocks)
        self.norms: ModuleList | None = None
        like = next(model.parameters(), torch.zeros(()))
        if how.double_norm:
            widths = [moe.width for moe in moe_layers(model, "MomentumSMoE(double_norm=True)")]
            self.norms = ModuleList(LayerNorm(widths[0]) for _ in blocks).to(like.device, like.dtype)
        if how.learn != "no":
            n = 1 if how.learn == "shared" else len(blocks)
            kept = log(how.mu / (1 - how.mu))
            size = how.gamma if how.gamma > 30 else log(expm1(how.gamma))
            self.raw_mu = Parameter(torch.full((n,), kept, device=like.device))
            self.raw_gamma = Parameter(torch.full((n,), size, device=like.device))

    def factors(self, at: int) -> tuple[Any, Any]:
        """Mu and gamma of a block: sigmoid and softplus of the parameters where they are learned."""
        if self.how.learn == "no":
            return self.how.mu, self.how.gamma
        place = 0 if self.how.learn == "shared" else at
        return torch.sigmoid(self.raw_mu[place]), F.softplus(self.raw_gamma[place])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        with self.carrying():
            return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own: every forward pass, of one new token or of many, begins without momentum."""
        inner: Any = self.model
        with self.carrying():
            return inner.generate(*args, **kwargs)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Within the `with` block calls of `.model` carry momentum, each from zero.

        Raises:
            InputError: if gradients are checkpointed, which would run blocks anew out of order.
        """
        asked = (
            n
            for n in ("is_activation_checkpointing", "is_gradient_checkpointing")
            if hasattr(type(self.model), n)
        )
        if self.training and getattr(self.model, next(asked, ""), False):
            raise InputError(
                "MomentumSMoE: gradient checkpointing runs blocks again, without the momentum that reached them. Turn "
                "it off."
            )
        state = State()

        def restart(*_: Any) -> None:
            state.__init__()  # type: ignore[misc]

        hooks: list[Any] = [self.model.register_forward_pre_hook(restart)]
        for at, name in enumerate(self.blocks):
            hooks += self._joined(at, name, state)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _joined(self, at: int, name: str, state: State) -> list[Any]:
        """Hooks that hand one block what it reads and the stream what it answers."""
        block, above = self.model.get_submodule(name), self.model.get_submodule(name.rpartition(".")[0])
        seen: list[tuple[Module, Tensor, Tensor]] = []
        here: dict[str, Tensor] = {}

        def keep(norm: Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and len(args) == 1 and isinstance(args[0], Tensor):
                seen.append((norm, args[0], output))

        def read(_: Module, args: Any, kwargs: Any) -> Any:
            h = args[0] if args else next(iter(kwargs.values()))
            norm, x = next(((m, x) for m, x, y in seen if y is h), (None, h))
            before, state.x = state.x, x
            here["read"], here["x"] = h, x
            if self.how.kind == "robust" and before is not None:
                y = x + _robust(self.how.smoothness, self.how.convexity, self.how.rate)[2] * (x - before)
                h = y if norm is None else norm(y)
                if args:
                    return (h, *args[1:]), kwargs
                return args, {n: h if i == 0 else v for i, (n, v) in enumerate(kwargs.items())}
            return None

        def answer(_: Module, args: Any, kwargs: Any, output: Any) -> Any:
            f = output if isinstance(output, Tensor) else output[0]
            flat = f.reshape(-1, f.shape[-1]).to(torch.promote_types(f.dtype, torch.float32))
            given = here["read" if self.norms is not None else "x"]
            step = self._move(flat, given.reshape(-1, given.shape[-1]), state, at)
            if self.norms is not None:
                step = self.norms[at]((given.reshape(step.shape) + step).to(f.dtype))
            seen.clear()
            here.clear()
            step = step.to(f.dtype).reshape(f.shape)
            return step if isinstance(output, Tensor) else (step, *output[1:])

        siblings = [c for c in above.children() if c is not block]
        return [
            *(c.register_forward_hook(keep) for c in siblings),
            block.register_forward_pre_hook(read, with_kwargs=True),
            block.register_forward_hook(answer, with_kwargs=True),
        ]

    def _move(self, f: Tensor, x: Tensor, state: State, at: int) -> Tensor:
        if state.p is not None and state.p.shape != f.shape:
            raise InputError(
                f"MomentumSMoE: {self.blocks[at]} answers {list(f.shape)} (tokens, width), the block before "
                f"{list(state.p.shape)}. Momentum passes between blocks of one width that see every token."
            )
        return moved(self.how, f, x, state, *self.factors(at))


def moved(how: MomentumSMoE, f: Tensor, x: Tensor, state: State, mu: Any, gamma: Any) -> Tensor:
    """What is added to the residual stream, and the state moved on.

    Args:
        how: the rule.
        f: the block's answer [tokens, H].
        x: what a decay is taken of [tokens, H].
        state: of the blocks before; changed.
        mu: as in the rule.
        gamma: as in the rule.
    """
    state.at += 1
    if how.kind == "none":
        return f
    step = gamma
    if how.kind == "robust":
        step, mu, _ = _robust(how.smoothness, how.convexity, how.rate)
    p = torch.zeros_like(f) if state.p is None else state.p
    state.p = mu * p + ((1 - mu) * f if how.kind == "signum" else f)
    if how.kind == "adam" and (how.adam_layers == "all" or state.at == 1):
        b1, b2 = how.betas
        state.first = (1 - b1) * f if state.first is None else b1 * state.first + (1 - b1) * f
        state.v = (1 - b2) * f * f if state.v is None else b2 * state.v + (1 - b2) * f * f
        adam: Tensor = how.adam_gamma * state.first / torch.sqrt(state.v + _EPS)
        return adam - how.decay * x if how.decay else adam
    way = state.p
    if how.kind in ("signum", "nesterov"):
        way = torch.sign(way) if how.kind == "signum" else f + mu * way
    taken: Tensor = way * step
    return taken


def _robust(smoothness: float, convexity: float, rate: float) -> tuple[float, float, float]:
    """Step, mu and nu of robust momentum.

    Raises:
        InputError: if L is not above m, or rho lies outside its interval.
    """
    kappa = smoothness / convexity
    if kappa <= 1:
        raise InputError(
            f"MomentumSMoE.smoothness must be above convexity; got {smoothness:g} and {convexity:g}."
        )
    low, high = 1 - kappa**-0.5, 1 - 1 / kappa
    if not low - 1e-12 <= rate <= high + 1e-12:
        raise InputError(
            f"MomentumSMoE.rate must be from {low:.4g} to {high:.4g} with L / m = {kappa:g}; got {rate:g}."
        )
    slow = (1 - rate) ** 2 * (1 + rate)
    return kappa * slow / smoothness, kappa * rate**3 / (kappa - 1), rate**3 / ((kappa - 1) * slow)
