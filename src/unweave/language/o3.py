"""O3: answer texts to forget by an adapter that a detector switches on, request after request, with no retain set.

Gao, Wang and others, "On Large Language Model Continual Unlearning" (first as "Practical Unlearning for Large Language
Models"), ICLR 2025, arXiv 2407.10223. One low-rank adapter (A, B on every linear layer but the head) is trained on
other answers to the texts of request t, and continued at the next one, with

    L = cross-entropy + lambda * mean over layers, sum over j < t of || A_j A_t^T ||_F^2

where A_j is A as it was after request j. A detector of each request reads hidden states f_l of layer l, the mean over a
text's tokens, and scores them by s_l = -1/2 (f_l - mu_l)^T Sigma_l^-1 (f_l - mu_l) + gamma * max cosine to its
request's; a linear one-class machine makes one number o of s. With normals fitted to o on the 80 % of texts that the
detector was fitted on and on the other 20 %, F the distribution of their equal mixture and x_0 the middle of their
means,

    w = sigmoid(zeta * (1 - |F(o) - F(2 x_0 - o)|) - 2)

and every layer answers W h + w (alpha / r) B A h, with the largest w of all requests.

Nothing is erased: the weights still know the texts, and who holds them can take the adapter off. What comes out is
guarded, not forgotten, and no folder of transformers holds it.

Decided here: texts are read by the model's own hidden states, so that no second model is needed (the paper trains a
RoBERTa for it); Sigma is shrunk (Ledoit and Wolf), for few texts cannot give a covariance; a text's cosine to itself
is left out; scores are standardised, to a mean of 3, before the one-class machine, which parts texts from 0; a text
more typical than x_0 counts as x_0, and not as strange; w below `floor` is 0. The paper's code subtracts the cosine
(`sign="code"`). The loss is that of the answers alone. Snapshots of all earlier requests are held, as in the code;
its equation takes the last alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..models.guarded import Detector, Fit, Guarded, Sign, guarded, pooled
from ..paper import Paper
from ..random import child
from ..settings import Count, NonNegative, Positive, Range, Share, settings
from ..tasks.language import CausalLM
from ..types import Batch, Data, Request
from ._tune import Term, check_texts, linear_names, nll, tuned

LEAST = 20
"""Texts of a request, below which no fifth of them can be set apart."""


@settings
class O3:
    """Answer texts to forget otherwise, through an adapter that a detector of such texts switches on.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW.
        accumulate: batches a step.
        rank: of the adapter; requests times rank must not pass any layer's width.
        alpha: its scale is alpha / rank.
        orthogonal: lambda, weight of what turns it away from earlier requests' adapters; without any it is not read.
        answers: taught in place of the true ones: each text's `alternative`, or tokens drawn from the other texts'
            answers ("random"), never the true one.
        gate: "soft", or "hard": w is 1 from `threshold` on and else 0.
        threshold: of a hard gate.
        floor: a soft w below it is 0.
        zeta: how soon w falls with strangeness.
        gamma: weight of the cosine in a layer's score.
        nu: share of the texts that the one-class machine may leave out.
        sign: of the cosine: "consistent" adds it, so that both parts grow with likeness; "code" subtracts it.
    """

    epochs: Count = 15
    lr: Positive = 3e-4
    accumulate: Count = 1
    rank: Count = 8
    alpha: Positive = 16.0
    orthogonal: NonNegative = 0.1
    answers: Literal["alternative", "random"] = "alternative"
    gate: Literal["soft", "hard"] = "soft"
    threshold: Share = 0.5
    floor: Share = 0.15
    zeta: Positive = 10.0
    gamma: NonNegative = 1000.0
    nu: Annotated[float, Range(above=0, at_most=1)] = 0.1
    sign: Sign = "consistent"

    paper: ClassVar[Paper] = Paper(
        "On Large Language Model Continual Unlearning", "Gao, Wang and others", "ICLR", 2025, "2407.10223"
    )
    guards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.gate == "soft" and self.threshold != 0.5:
            raise InputError(
                f"O3.threshold={self.threshold} would do nothing with a soft gate. Leave it at 0.5."
            )
        if self.gate == "hard" and self.floor != 0.15:
            raise InputError(f"O3.floor={self.floor} would do nothing with a hard gate. Leave it at 0.15.")

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Guarded:
        """Return the model behind a guard for this request and all that it guards already.

        Args:
            model: left unchanged; what an earlier request returned continues its adapter.
            data: the forget set alone is read.
            rng: governs orders, first weights, the texts set apart and random answers.

        Raises:
            EmptyDataError: if the forget set is empty.
            InputError: if it has fewer than 20 texts, they are all alike, the adapter has no room for another request,
                or a text has no alternative where alternatives are taught.
        """
        check_texts("O3", rng, data.forget)
        if len(data.forget) < LEAST:
            raise InputError(
                f"O3 sets a fifth of the texts apart to know how its detector answers; {len(data.forget)} are too few: "
                f"give at least {LEAST}, or take another method."
            )
        detector = self.detector(model, data.forget, child(rng))
        start = guarded(model, linear_names, self.rank, self.alpha / self.rank, child(rng))
        start.require_room("O3", self.orthogonal > 0)
        start.fixed(1.0)
        student = tuned(
            "O3", _Steps(self), start, data, self._term(data, child(rng)), rng=rng,
            train=lambda m: [p for p in _guard(m).adapters() if p.requires_grad],
        )  # fmt: skip
        made = _guard(student)
        made.fixed(None)
        made.learnt(detector)
        return made

    def detector(self, model: Module, forget: Data[Any], rng: Generator) -> Detector:
        """What tells texts like these: fitted on four fifths of them, calibrated on the rest.

        Raises:
            InputError: if all texts are alike.
        """
        features = pooled(model, forget)
        order = torch.randperm(len(features), generator=rng)
        used = max(1, int(0.8 * len(features)))
        fit = Fit(gamma=self.gamma, nu=self.nu, sign=self.sign, zeta=self.zeta)
        low, cut = (self.floor, None) if self.gate == "soft" else (0.0, self.threshold)
        return Detector.of(features[order[:used]], features[order[used:]], fit, floor=low, cut=cut)

    def _term(self, data: Request[CausalLM], rng: Generator) -> Term:
        """Cross-entropy of other answers, by token, and what turns the adapter away from earlier ones."""
        task = data.forget.task
        known = nll(task)
        drawn = _drawn(data.forget, rng) if self.answers == "random" else None

        def other(batch: Batch, at: Tensor) -> Batch:
            if drawn is None:
                return task.alternative(batch)
            told = dict(batch) if isinstance(batch, Mapping) else {"input_ids": task.ids(batch)}
            labels = task.labels(batch)
            taught = torch.stack([drawn[int(i)][: labels.shape[1]] for i in at]).to(labels)
            return {**told, "labels": torch.where(labels >= 0, taught, labels)}

        def total(m: Module, batch: Batch, at: Tensor) -> Tensor:
            loss = known.total(m, other(batch, at), at)
            turned = _guard(m).overlap()
            return loss if turned is None else loss + size(batch) * self.orthogonal * turned

        def size(batch: Batch) -> int:
            return known.size(task.alternative(batch) if drawn is None else batch)

        return Term(total, size)


class _Steps:
    """How long and how fast `tuned` trains: the adapter is in the model already."""

    def __init__(self, method: O3) -> None:
        self.epochs, self.lr, self.accumulate = method.epochs, method.lr, method.accumulate
        self.lora = None


def _guard(model: Module) -> Guarded:
    assert isinstance(model, Guarded)
    return model


def _drawn(data: Data[Any], rng: Generator) -> Tensor:
    """Other tokens for every place of every text, [n, longest]: counted tokens of the set, never the place's own.

    Raises:
        InputError: if all counted tokens are the same.
    """
    task = data.task
    labels = [row for batch in replace(data, batch_size=1).batches() for row in task.labels(batch)]
    whole = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    known = whole[whole >= 0]
    if bool((known == known[:1]).all()):
        raise InputError("O3.answers='random' needs two different tokens in the answers; all are the same.")
    found = known[torch.randint(len(known), whole.shape, generator=rng)]
    while bool((same := found == whole).any()):
        found[same] = known[torch.randint(len(known), (int(same.sum()),), generator=rng)]
    return found
