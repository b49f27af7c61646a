"""What the unlearners of language models share: terms of a loss over texts, pairing, accumulation, adapters, the loop.

Every loss here is a sum over texts or tokens, divided by how many there are in the whole batch, so that a batch
read in pieces gives the same step. What is compared with the model before the edit is read off that model as it
was given: its log-probabilities of the forget set once, before the first step (`before`), and no second copy of
it is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol
from warnings import catch_warnings, simplefilter

import torch
from torch import Generator, Tensor
from torch.nn import Linear, Module, Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError, require
from ..fit import Loop, Step, fit_
from ..fit.batches import Grouped, Numbered, Paired
from ..masks.layers import copied, free, is_conv1d, require_plain
from ..masks.mask import Mask
from ..models.adapters import masked_forward, merged_weight
from ..random import child, draw_seed, global_seed, require_generator
from ..settings import refuse_idle
from ..tasks import Autoregressive, evaluating, predict, requires
from ..tasks.language import CausalLM
from ..types import Batch, Data, Request

CLIP = 1.0
"""Largest norm of a step's gradient, as in the common trainer."""

RetainLoss = Literal["nll", "kl"]


class Tuned(Protocol):
    """The settings that every unlearner of this family has."""

    @property
    def epochs(self) -> int: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102
    @property
    def accumulate(self) -> int: ...  # noqa: D102
    @property
    def lora(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class Term:
    """One term of a loss.

    Attributes:
        total: (model, batch, positions in the data set [n]) -> sum over what the batch holds, a scalar.
        size: how many texts or tokens of the batch that sum is over.
    """

    total: Callable[[Module, Batch, Tensor], Tensor]
    size: Callable[[Batch], int]


def tokens_of(task: CausalLM) -> Callable[[Batch], int]:
    """How many counted tokens a batch has."""
    return lambda batch: int(task.counted(batch).sum())


def texts_of(task: CausalLM) -> Callable[[Batch], int]:
    """How many texts a batch has."""
    return lambda batch: len(task.ids(batch))


def check_texts(who: str, rng: Generator, *parts: Data[Any]) -> None:
    """What every unlearner of language models asks first.

    Args:
        who: begins the message.
        rng: of the edit.
        parts: of the request that it reads.

    Raises:
        InputError: if `rng` is no generator, or a part holds no texts.
        EmptyDataError: if a part is empty.
    """
    require_generator(rng)
    for part in parts:
        part.require_examples(who)
        requires(part.task, Autoregressive, who)


def nll(task: CausalLM) -> Term:
    """Negative log-likelihood, by token."""

    def total(model: Module, batch: Batch, _: Tensor) -> Tensor:
        each, counted = task.token_losses(model, batch)
        return (each * counted).sum()

    return Term(total, tokens_of(task))


def kl(original: Module, task: CausalLM) -> Term:
    """KL(original || model) at each counted token, by token: padding and prompts count nowhere."""

    def total(model: Module, batch: Batch, _: Tensor) -> Tensor:
        counted = task.counted(batch)
        with evaluating(original):
            known = task.outputs(original, batch)[:, :-1][counted].log_softmax(-1)
        learned = task.outputs(model, batch)[:, :-1][counted].log_softmax(-1)
        return (known.exp() * (known - learned)).sum()

    return Term(total, tokens_of(task))


def keeping(retain_loss: RetainLoss, original: Module, task: CausalLM) -> Term:
    """What holds the rest: the training loss, or closeness to the original."""
    return nll(task) if retain_loss == "nll" else kl(original, task)


def before(model: Module, data: Data[Any], alternative: bool = False) -> Tensor:
    """Summed log-probability of each text's answer under the model before the edit, [n]; read once, then kept."""
    task = data.task

    def read(m: Module, batch: Batch) -> Tensor:
        summed: Tensor = task.log_probabilities(m, task.alternative(batch) if alternative else batch)[0]
        return summed

    return predict(model, data, read)


class Keeps(Tuned, Protocol):
    """The settings of those that may hold the rest."""

    @property
    def alpha(self) -> float: ...  # noqa: D102
    @property
    def retain_loss(self) -> RetainLoss: ...  # noqa: D102


def refuse_idle_loss(method: Any) -> None:
    """Refuse a choice of `retain_loss` where alpha=0 keeps nothing."""
    if method.alpha == 0:
        refuse_idle(method, "retain_loss", when="with alpha=0, which keeps nothing")


def checked(method: Keeps, data: Request[Any], rng: Generator) -> CausalLM:
    """The task of a request, once the method may read the parts of it that it reads; see `check_texts`."""
    check_texts(type(method).__name__, rng, data.forget, *([data.retain] if method.alpha else []))
    task: CausalLM = data.forget.task
    return task


def unlearned(
    method: Keeps, model: Module, data: Request[Any], forget: Term, *, rng: Generator, gamma: float = 1.0
) -> Module:
    """A copy of `model` trained on gamma * forget + alpha * what `retain_loss` names; see `tuned`."""
    keep = keeping(method.retain_loss, model, data.forget.task) if method.alpha else None
    return tuned(
        type(method).__name__,
        method,
        model,
        data,
        forget,
        rng=rng,
        gamma=gamma,
        keep=keep,
        alpha=method.alpha,
    )


def climbed(task: CausalLM, weigh: Callable[[Tensor], Tensor]) -> Term:
    """Ascent on every counted token's loss, weighed by what `weigh` makes of it, which is not differentiated."""

    def total(model: Module, batch: Batch, _: Tensor) -> Tensor:
        each, counted = task.token_losses(model, batch)
        return -(weigh(each.detach()) * each * counted).sum()

    return Term(total, tokens_of(task))


def tuned(
    who: str,
    method: Tuned,
    model: Module,
    data: Request[Any],
    forget: Term,
    *,
    rng: Generator,
    gamma: float = 1.0,
    keep: Term | None = None,
    alpha: float | Callable[[Module], float] = 1.0,
    train: Callable[[Module], Sequence[Parameter]] | None = None,
    after_step: Callable[[Step], None] | None = None,
) -> Module:
    """A copy of `model` trained on gamma * forget + alpha * keep; an epoch is one pass over the forget set.

    Each batch of texts to forget is paired with one of texts to keep, drawn at random. AdamW without weight decay, a
    rate that rises over the first epoch and falls to 0, gradients clipped to a norm of 1: the field's common trainer.

    Args:
        who: needs it.
        method: how long and how fast; its batches are `accumulate` batches of the data.
        model: left unchanged.
        data: forget and, with `keep`, retain set.
        forget: of the texts to forget.
        rng: governs orders, pairing, dropout, an adapter's first weights.
        gamma: weight of `forget`.
        keep: of the texts to keep; None reads none.
        alpha: weight of `keep`; a function reads it off the student at each step.
        train: student -> parameters that may move; all that are not frozen without it.
        after_step: see `fit_`.
    """
    numbered: Any = Numbered(data.forget)
    pairs: Any = numbered if keep is None or alpha == 0 else Paired(numbered, data.retain)
    none = torch.empty(0, dtype=torch.long)

    def objective(m: Module, group: list[Any]) -> Tensor:
        read = [(*pair, None) if pairs is numbered else (*pair[0], pair[1]) for pair in group]
        parts = list[tuple[float, Callable[[], Tensor]]]()
        gone = max(1, sum(forget.size(batch) for batch, _, _ in read))
        parts += [(gamma / gone, partial(forget.total, m, batch, at)) for batch, at, _ in read]
        if keep is not None and pairs is not numbered:
            stays = max(1, sum(keep.size(batch) for _, _, batch in read))
            weight = alpha(m) if callable(alpha) else alpha
            parts += [(weight / stays, partial(keep.total, m, batch, none)) for _, _, batch in read]
        return gathered(m, parts)

    with student_of(who, model, method.lora, rng) as (student, finish):
        moved = free(who, student) if train is None else train(student)
        optimizer = AdamW(moved, lr=method.lr, weight_decay=0.0)
        grouped = Grouped(pairs, method.accumulate)
        each = -(-len(data.forget) // grouped.batch_size)
        fit_(
            student, grouped, objective, optimizer, epochs=method.epochs, rng=rng,
            hold=None if method.lora else Mask.of(model),
            loop=Loop(clip=CLIP, schedule=warm_linear(optimizer, method.epochs * each, each), label=who),
            after_step=after_step,
        )  # fmt: skip
        return finish()


def warm_linear(optimizer: Optimizer, steps: int, warm: int) -> LambdaLR:
    """A rate that rises over `warm` steps to its peak, then falls on a line to 0 after `steps`."""

    def factor(step: int) -> float:
        return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))

    return LambdaLR(optimizer, factor)


class _Gathered(torch.autograd.Function):
    """A value with gradients that are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *pull: Tensor) -> Any:
        return None, None, *(None if g is None else g * pull[0] for g in ctx.gradients)


def gathered(model: Module, parts: Sequence[tuple[float, Callable[[], Tensor]]]) -> Tensor:
    """The weighted sum of several scalars, with the graph of one of them at a time in memory.

    Args:
        model: whose parameters it depends on.
        parts: (weight, function that computes a scalar).
    """
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.stack([weight * part() for weight, part in parts]).sum()
    moving = [p for p in model.parameters() if p.requires_grad]
    gradients: list[Tensor | None] = [None] * len(moving)
    values = []
    for weight, part in parts:
        value = weight * part()
        values.append(value.detach())
        if not value.requires_grad:
            continue
        for i, g in enumerate(torch.autograd.grad(value, moving, allow_unused=True)):
            old = gradients[i]
            gradients[i] = g if old is None else old if g is None else old.add_(g)
    made: Tensor = _Gathered.apply(torch.stack(values).sum(), gradients, *moving)  # type: ignore[no-untyped-call]
    return made


@contextmanager
def student_of(
    who: str, model: Module, rank: int | None, rng: Generator
) -> Iterator[tuple[Module, Callable[[], Module]]]:
    """The model that is trained, and what makes the edited model of it in the end.

    With a rank, low-rank adapters on all linear layers but the head learn, over the weights of `model` itself, which
    are not copied until the end. Where weights are pruned, adapters add nothing, in training as in the end.
    """
    if rank is None:
        student = copied(model)
        yield student, lambda: student
        return
    peft = require("peft", extra="language", purpose=f"{who} with lora")
    require_plain(model)
    names = linear_names(model)
    if not names:
        raise InputError(f"{who}.lora: {type(model).__name__} has no linear layer to adapt. Leave lora out.")
    shared = {id(p): Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
    with global_seed(draw_seed(rng)), catch_warnings():
        simplefilter("ignore")  # peft asks for names that transformers has renamed, and tells of Conv1D
        wrapped = peft.get_peft_model(deepcopy(model, shared), config)
    adapted: Module = wrapped.get_base_model()
    alive = Mask.of(model).keep
    learned = {n: m for n, m in adapted.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    for name, layer in learned.items():
        if f"{name}.weight" in alive:
            vars(layer)["forward"] = masked_forward(layer, alive[f"{name}.weight"])

    def finish() -> Module:
        edited = copied(model)
        with torch.no_grad():
            for name, layer in learned.items():
                weight: Any = edited.get_submodule(name).weight
                weight.copy_(merged_weight(layer, alive.get(f"{name}.weight")))
        return edited

    yield adapted, finish


def linear_names(model: Module) -> list[str]:
    """Names of the linear layers below the output embedding."""
    head: Any = getattr(model, "get_output_embeddings", None)
    outputs = None if head is None else head()
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, Linear) or is_conv1d(m)]
    if outputs is None and len(found) > 1:
        found = found[:-1]
    return [name for name, module in found if module is not outputs]


def fine_tuned(
    who: str, model: Module, data: Data[Any], *, epochs: int, lr: float, lora: int | None, rng: Generator
) -> Module:
    """A copy of `model` trained on texts by their loss alone."""
    term = nll(data.task)

    def objective(m: Module, batch: Batch) -> Tensor:
        return term.total(m, batch, torch.empty(0)) / term.size(batch)

    with student_of(who, model, lora, rng) as (student, finish):
        fit_(
            student, data, objective, AdamW(free(who, student), lr=lr, weight_decay=0.0), epochs=epochs,
            rng=child(rng), hold=None if lora else Mask.of(model), loop=Loop(clip=CLIP, label=who),
        )  # fmt: skip
        return finish()


def logits_of(task: CausalLM, model: Module, batch: Batch, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [tokens, vocabulary] and true ids [tokens] where `chosen`, bool [n, t - 1], says."""
    logits = task.outputs(model, batch)[:, :-1]
    at = chosen.to(logits.device)
    return logits[at], task.labels(batch)[:, 1:].to(logits.device)[at]
