"""UQ-ICL: how much of an in-context classifier's uncertainty comes from the demonstrations, and how much is left.

Ling, Zhao, Zhang, Cheng, Liu, Sun, Oishi, Osaki, Matsuda, Ji, Bai, Zhao, Chen, "Uncertainty Quantification for
In-Context Learning of Large Language Models", NAACL 2024 (https://arxiv.org/abs/2402.10189). L sets of demonstrations
are drawn, each put before the same text. With P_j the probabilities of the K labels under set j,

    total          H(mean_j P_j)
    within_demo    mean_j H(P_j), what is left once the demonstrations are fixed
    between_demo   total - within_demo, how much the sets disagree

in nats. The paper calls what is within a set epistemic (it spreads over the model's configurations) and what is
between sets aleatoric; the authors' code returns the two the other way round, as is the habit of Bayesian ensembles.
So the parts have neutral names here, and `Parts.named` gives them either pair.

Without probabilities (the black box) the law of total variance divides the trace of the covariance of answers, taken
as one-hot vectors: the mean over sets of the variance within, and the variance of the sets' means.

Decided here. Columns are normalised before they are averaged, so that the second part is never negative; the
published form, which sums beam probabilities as they come and adds 1e-7 to each, is `normalise_columns=False`. The
labels' probabilities are read off directly unless beams are asked for; then each returned sequence is scored again in
a forward pass of its own, so that no reordering of beams can misplace a score, a label in the first place counts (the
authors' code takes position 0 for "none"), and beams that begin alike up to their label count once unless
`beams="each"`. A set without any label among its beams raises. All texts meet the same L sets. A third part, between
orders of the same demonstrations, is there where `orders` is above 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...errors import InputError
from ...paper import Paper
from ...random import child, require_generator
from ...settings import Count, Positive, refuse_idle, settings
from ...tasks import evaluating
from .asking import Asked, by_beams, by_probabilities, by_samples
from .prompts import Prompts

_ADDED = 1e-7


@dataclass(frozen=True)
class Parts:
    """An uncertainty and what it is made of, each [n]; in nats for entropies, a variance otherwise.

    Attributes:
        total: all of it, the sum of the parts.
        within_demo: left once demonstrations and their order are fixed.
        between_demo: how much sets of demonstrations disagree.
        between_order: how much orders of the same set disagree; 0 where there is one.
    """

    total: Tensor
    within_demo: Tensor
    between_demo: Tensor
    between_order: Tensor

    def named(self, naming: Literal["paper", "code"]) -> dict[str, Tensor]:
        """The parts as "epistemic" and "aleatoric", the way the paper has it or the way its code has it."""
        within, between = ("epistemic", "aleatoric") if naming == "paper" else ("aleatoric", "epistemic")
        return {within: self.within_demo, between: self.between_demo}


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Parts):
    """What a model is unsure of, text by text.

    Attributes:
        probabilities: of the labels, averaged over sets and orders, [n, K].
        votes: as they were read, [n, K, L, orders]: probabilities, or sums of them over beams, or shares of answers.
        interval: 95 % bootstrap interval of `between_demo` over the sets, [n, 2]; a few sets leave it wide.
        invalid: share of probability, beams or answers that fell on no label, [n].
        scoring: how it was read.
    """

    probabilities: Tensor
    votes: Tensor
    interval: Tensor
    invalid: Tensor
    scoring: str

    @property
    def prediction(self) -> Tensor:
        """Position of the most probable label, int64 [n]."""
        return self.probabilities.argmax(1)

    @property
    def surprise(self) -> Tensor:
        """A plain baseline: minus the log-probability of the first set's own answer, [n]."""
        return -self._first().amax(1).clamp_min(torch.finfo(self.votes.dtype).tiny).log()

    @property
    def semantic_entropy(self) -> Tensor:
        """Entropy over meanings (labels) of the first set's answers, [n]: semantic entropy, a label being a meaning."""
        return entropy(self._first())

    def scores(self) -> dict[str, Tensor]:
        """Every score that may tell errors, name -> [n]: the parts, and the two baselines of one set."""
        found = {"total": self.total, "within demonstrations": self.within_demo}
        found["between demonstrations"] = self.between_demo
        if self.votes.shape[3] > 1:
            found["between orders"] = self.between_order
        return {**found, "semantic entropy": self.semantic_entropy, "log-probability": self.surprise}

    def _first(self) -> Tensor:
        first = self.votes[:, :, 0, 0]
        return first / first.sum(1, keepdim=True)


@settings
class UQICL:
    """Ask with several sets of demonstrations, and divide what the model is unsure of by where it comes from.

    Attributes:
        sets: L, how many sets of demonstrations are drawn (paper: 4). `between_demo` is at most the log of that.
        shots: demonstrations a set; two a class if balanced and four if not, unless given.
        selection: "balanced" draws as many of each class; "random" from all.
        scoring: "direct" reads the labels' probabilities off a forward pass; "beams" is the paper's white box;
            "samples" its black box, which looks at answers alone and divides their variance.
        beams: how often beams that are alike up to their label count.
        answers: M, beams or sampled answers a prompt (paper: 10).
        tokens: longest answer (paper: 16).
        temperature: of sampled answers.
        orders: how many orders of each set are asked with.
        calibrate: divide by what each prompt says of a text without content (Zhao et al., 2021), before entropies.
        normalise_columns: make each set's votes a distribution before they are averaged; False is the published form.
        batch_size: sequences a forward pass.

    Raises:
        InputError: if a setting would do nothing beside `scoring`.
    """

    sets: Count = 4
    shots: Count | None = None
    selection: Literal["balanced", "random"] = "balanced"
    scoring: Literal["direct", "beams", "samples"] = "direct"
    beams: Literal["once", "each"] = "once"
    answers: Count = 10
    tokens: Count = 16
    temperature: Positive = 1.0
    orders: Count = 1
    calibrate: bool = False
    normalise_columns: bool = True
    batch_size: Count = 16

    paper: ClassVar[Paper] = Paper(
        "Uncertainty Quantification for In-Context Learning of Large Language Models",
        "Ling, Zhao, Zhang, Cheng, Liu, Sun, Oishi, Osaki, Matsuda, Ji, Bai, Zhao, Chen", "NAACL", 2024, "2402.10189",
    )  # fmt: skip

    def __post_init__(self) -> None:
        idle = {
            "direct": ("beams", "answers", "tokens", "temperature"),
            "beams": ("temperature", "calibrate"),
            "samples": ("beams", "calibrate", "normalise_columns"),
        }
        refuse_idle(self, *idle[self.scoring], when=f"with scoring={self.scoring!r}")

    @classmethod
    def published(cls) -> UQICL:
        """As the paper has it: beams as they come, columns summed as they are."""
        return cls(scoring="beams", beams="each", normalise_columns=False)

    def demonstrations(self, labels: Sequence[int], classes: int, *, rng: Generator) -> list[list[int]]:
        """Positions in the pool of each set's demonstrations, in the order of the prompt.

        Args:
            labels: class of each demonstration in the pool, from 0.
            classes: K.
            rng: draws sets and orders.

        Raises:
            InputError: if the pool is smaller than a set, lacks a class that a balanced set needs, or has another.
        """
        require_generator(rng)
        wrong = [y for y in labels if not 0 <= y < classes]
        if classes < 2 or wrong:
            raise InputError(
                f"UQICL needs at least 2 labels, each demonstration's among them; got {classes} labels"
                f"{f' and a demonstration of class {wrong[0]}' if wrong else ''}."
            )
        pool = torch.as_tensor(labels)
        if self.selection == "random":
            return [
                self._of(torch.arange(len(pool)), self.shots or 4, "the pool", rng) for _ in range(self.sets)
            ]
        each, rest = divmod(self.shots or 2 * classes, classes)
        if rest or not each:
            raise InputError(
                f"UQICL.shots={self.shots} cannot be balanced over {classes} classes. Give a multiple of that, or "
                "selection='random'."
            )
        drawn = []
        for _ in range(self.sets):
            parts = [
                self._of((pool == c).nonzero().flatten(), each, f"class {c} of the pool", rng)
                for c in range(classes)
            ]
            together = torch.tensor([i for part in parts for i in part])
            drawn.append(together[torch.randperm(len(together), generator=rng)].tolist())
        return drawn

    def _of(self, among: Tensor, count: int, where: str, rng: Generator) -> list[int]:
        if len(among) < count:
            raise InputError(
                f"UQICL: a set needs {count} demonstrations of {where}, which has {len(among)}. Give more "
                "demonstrations, or fewer shots."
            )
        chosen: list[int] = among[torch.randperm(len(among), generator=rng)[:count]].tolist()
        return chosen

    def decompose(
        self,
        model: Module,
        pool: Sequence[tuple[Any, int]],
        texts: Sequence[Any],
        prompts: Prompts,
        *,
        rng: Generator,
        sets: Sequence[Sequence[tuple[Any, int]]] | None = None,
    ) -> Uncertainty:
        """Ask a model about every text and divide its uncertainty.

        Args:
            model: a causal language model; read in eval mode and left unchanged.
            pool: demonstrations (text, class from 0) to draw from.
            texts: what to classify, n of them.
            prompts: how they are put before the model.
            rng: draws demonstrations, their orders and sampled answers.
            sets: the demonstrations of each set, in place of those drawn from `pool`.

        Raises:
            InputError: if nothing is to be classified, the pool does not suffice, or no beam of a set names a label.
        """
        if not len(texts):
            raise InputError("UQICL was given no text to classify.")
        require_generator(rng)
        if sets is None:
            drawn = self.demonstrations([y for _, y in pool], prompts.classes, rng=child(rng))
            sets = [[pool[i] for i in chosen] for chosen in drawn]
        elif len(sets) != self.sets:
            raise InputError(
                f"UQICL.sets is {self.sets}; got {len(sets)} sets of demonstrations. Give as many."
            )
        ordered, shuffle = [], child(rng)
        for demos in sets:
            ordered.append(list(demos))
            for _ in range(self.orders - 1):
                ordered.append([demos[i] for i in torch.randperm(len(demos), generator=shuffle).tolist()])
        with evaluating(model):
            asked = self._asked(model, ordered, texts, prompts, child(rng))
        return self._divided(asked, child(rng))

    def _asked(
        self, model: Module, ordered: Sequence[Any], texts: Sequence[Any], prompts: Prompts, rng: Generator
    ) -> Asked:
        ids = [prompts.ids(demos, text) for text in texts for demos in ordered]
        _require_room(model, max(map(len, ids)), 1 if self.scoring == "direct" else self.tokens)
        if self.scoring == "direct":
            blank = [prompts.ids(demos, prompts.blank()) for demos in ordered] if self.calibrate else []
            asked = by_probabilities(model, ids, prompts, self.batch_size)
            if blank:
                prior = by_probabilities(model, blank, prompts, self.batch_size).votes
                asked = Asked(asked.votes / prior.repeat(len(texts), 1).clamp_min(1e-12), asked.invalid)
        elif self.scoring == "beams":
            asked = by_beams(
                model, ids, prompts, beams=self.answers, tokens=self.tokens, once=self.beams == "once",
                most=self.batch_size,
            )  # fmt: skip
        else:
            asked = by_samples(
                model, ids, prompts, answers=self.answers, tokens=self.tokens, temperature=self.temperature, rng=rng
            )  # fmt: skip
        shape = (len(texts), self.sets, self.orders, -1)
        return Asked(asked.votes.view(shape).permute(0, 3, 1, 2), asked.invalid.view(len(texts), -1).mean(1))

    def _divided(self, asked: Asked, rng: Generator) -> Uncertainty:
        empty = int((asked.votes.sum(1) <= 0).sum())
        if empty:
            raise InputError(
                f"UQICL: {empty} prompts were answered without any of the labels, so they say nothing. Name the "
                "labels in the instruction, give more answers, or use scoring='direct'."
            )
        if self.scoring == "samples":
            divide = _variance_of_votes
        else:
            divide = lambda votes: entropy_parts(votes, normalise_columns=self.normalise_columns)  # noqa: E731
        parts = divide(asked.votes)
        columns = asked.votes / asked.votes.sum(1, keepdim=True)
        if not self.normalise_columns:
            columns = asked.votes
        summed = columns.sum((2, 3))
        redrawn = torch.randint(self.sets, (200, self.sets), generator=rng)
        again = torch.stack([divide(asked.votes[:, :, at]).between_demo for at in redrawn])
        interval = torch.quantile(again, torch.tensor([0.025, 0.975], dtype=again.dtype), dim=0).T
        return Uncertainty(
            parts.total, parts.within_demo, parts.between_demo, parts.between_order,
            probabilities=summed / summed.sum(1, keepdim=True), votes=asked.votes, interval=interval,
            invalid=asked.invalid, scoring=self.scoring,
        )  # fmt: skip


def entropy(p: Tensor, dim: int = 1) -> Tensor:
    """Entropy in nats of distributions along `dim`; 0 log 0 is 0."""
    return -torch.xlogy(p, p).sum(dim)


def entropy_parts(votes: Tensor, *, normalise_columns: bool = True) -> Parts:
    """Divide the entropy of a text's label.

    Args:
        votes: non-negative, [n, K, L] or [n, K, L, orders]; no column may be all zero.
        normalise_columns: make each column a distribution first, so that no part is negative; False sums them as they
            are and adds 1e-7 before each normalisation, as published.
    """
    votes = votes.double() if votes.ndim == 4 else votes.double()[..., None]

    def distribution(v: Tensor) -> Tensor:
        v = v if normalise_columns else v + _ADDED
        return v / v.sum(1, keepdim=True)

    columns = distribution(votes) if normalise_columns else votes
    total = entropy(distribution(columns.sum((2, 3))))
    of_sets = entropy(distribution(columns.sum(3))).mean(1)
    within = entropy(distribution(columns)).mean((1, 2))
    return Parts(total, within, total - of_sets, of_sets - within)


def variance_parts(answers: Tensor) -> Parts:
    """Divide the variance of numbers, or the trace of the covariance of vectors, by the law of total variance.

    Args:
        answers: [n, L, M] numbers or [n, L, M, K] vectors: M answers under each of L sets.
    """
    y = answers.double() if answers.ndim == 4 else answers.double()[..., None]
    means = y.mean(2)
    within = (y - means[:, :, None]).square().mean((1, 2)).sum(-1)
    between = (means - means.mean(1, keepdim=True)).square().mean(1).sum(-1)
    return Parts(within + between, within, between, torch.zeros_like(within))


def _require_room(model: Module, prompt: int, answer: int) -> None:
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(limit, int) and prompt + answer > limit:
        raise InputError(
            f"UQICL: a prompt has {prompt} tokens, and the model reads {limit} with the answer's {answer}. Give fewer "
            "shots or shorter texts."
        )


def _variance_of_votes(votes: Tensor) -> Parts:
    """The same for one-hot answers known by their shares [n, K, L, orders]: a share p has variance p (1 - p)."""
    shares = votes.double() / votes.double().sum(1, keepdim=True)
    sets = shares.mean(3)
    within = (1 - shares.square().sum(1)).mean((1, 2))
    orders = (shares - sets[..., None]).square().sum(1).mean((1, 2))
    between = (sets - sets.mean(2, keepdim=True)).square().sum(1).mean(1)
    return Parts(within + orders + between, within, between, orders)
