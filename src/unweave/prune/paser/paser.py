"""PASER: choose the few examples that best repair what pruning broke.

He, Yin, Zhen, Zhang, Yuan, Ma, "PASER: Post-Training Data Selection for Efficient Pruned Large Language Model
Recovery", ICLR 2026, arXiv 2502.12594: examples are clustered by what they ask for, the budget is shared out by how far
the pruned model's answers have moved in each cluster, and examples that contradict chosen ones are passed over.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import e
from numbers import Integral
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ...errors import InputError
from ...paper import Paper
from ...random import require_generator
from ...settings import Count, Range, SomeShare, refuse_idle, settings
from ...tasks import evaluating
from ...types import Batch, Data
from .answers import divergence, reading
from .budget import fill, key_phrases
from .clusters import diffusion_clusters

Several = Annotated[int, Range(at_least=2)]


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What was chosen, and why.

    Attributes:
        positions: in the data, ascending, int64 [b].
        clusters: of each example, int64 [n].
        degradation: how far the pruned model's answer has moved in each example, nats, [n].
        allocation: share of the budget each cluster was given by its degradation, [clusters], sums to 1.
        rejected: examples passed over because they contradict chosen ones.
        examined: examples whose concepts were looked at.
        readmitted: rejected ones taken after all, because nothing else was left to fill the budget.
    """

    positions: Tensor
    clusters: Tensor
    degradation: Tensor
    allocation: Tensor
    rejected: int
    examined: int
    readmitted: int

    @property
    def rejection_rate(self) -> float:
        """Share of the examined examples that were rejected; 0 means that the concepts decided nothing."""
        return self.rejected / max(1, self.examined)


@settings
class PASER:
    """Choose recovery data for a pruned model; train on `data.subset(selected.positions)` afterwards.

    Works on any two models that one task reads and that return logits [n, classes] or [n, t, vocabulary]. In a language
    model's example what is asked are the tokens whose label is -100, what is answered are the others, on which
    degradation is measured (all of them, where there are no labels).

    The published code sums the divergence over the prompt's tokens, which favours long prompts; here, as in the paper,
    it is the mean over the answer's. Its cost adds tokens to characters; here both are tokens. The graph of all pairs
    is cut to nearest neighbours and made symmetric. What a cluster cannot spend, being small or rejected, goes to the
    others by their degradation, so that the budget is always met. One graph of concepts serves all clusters, the most
    degraded first. The paper's NLI ranking and synonyms are for `concepts` to do.

    Attributes:
        budget: examples to choose: a share if a float, a number if an int (the paper takes 4 to 20 %).
        clusters: how many (the published code's 10), or (fewest, most) to take the largest number that the
            factorisation fits as well as any, or embeddings [n, width] -> cluster of each, int64 [n].
        neighbours: of each example in the graph that clusters come from.
        landmarks: examples that the factors are found on; at least n gives the whole factorisation.
        degradation: "jsd" is the Jensen-Shannon divergence of the two models' answers, "kl" is KL(original || pruned),
            "loss" is the rise of the task's loss, at least 0.
        embed: (original model, batch) -> [n, width], such as a sentence encoder on the batch's text. None is the mean
            over what is asked of what the original model's last Linear layer reads: nothing to download.
        concepts: example of the data -> what it is about, hashable things. "phrases": runs of token ids between those
            that more than a tenth of the examples have. None chooses without looking for contradictions.
        cost: batch -> cost of training on each example, [n]; its logarithm divides the degradation. None is the square
            of the number of tokens that are not padding.
        allocation: "degradation" shares the budget by the clusters' mean degradation, "uniform" equally.
    """

    budget: SomeShare | Count = 0.2
    clusters: Several | tuple[Several, Several] | Callable[[Tensor], Tensor] = 10
    neighbours: Count = 15
    landmarks: Several = 1000
    degradation: Literal["jsd", "kl", "loss"] = "jsd"
    embed: Callable[[Module, Batch], Tensor] | None = None
    concepts: Callable[[Any], Iterable[Hashable]] | Literal["phrases"] | None = "phrases"
    cost: Callable[[Batch], Tensor] | None = None
    allocation: Literal["degradation", "uniform"] = "degradation"

    paper: ClassVar[Paper] = Paper(
        "PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery",
        "He, Yin, Zhen, Zhang, Yuan, Ma", "ICLR", 2026, "2502.12594",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if isinstance(self.clusters, tuple) and self.clusters[0] > self.clusters[1]:
            raise InputError(f"PASER.clusters must have the fewest first; got {self.clusters}.")
        if callable(self.clusters):
            refuse_idle(self, "neighbours", "landmarks", when="since clusters is a function")

    def select(self, original: Module, pruned: Module, data: Data[Any], *, rng: Generator) -> Selected:
        """Choose from `data`; trains nothing and leaves both models unchanged.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if the budget exceeds the examples, the models' logits differ in shape or are not finite, an
                example has no answer, clusters cannot be found, or "phrases" are wanted where there are no token ids.
        """
        data.require_examples("PASER")
        require_generator(rng)
        n = len(data)
        budget = int(self.budget) if isinstance(self.budget, Integral) else max(1, round(self.budget * n))
        if budget > n:
            raise InputError(f"PASER.budget is {budget} examples; there are {n}.")
        concepts = self._concepts(data)
        embeddings, moved, cost = self._read(original, pruned, data)
        if callable(self.clusters):
            clusters = self.clusters(embeddings).cpu().long()
        else:
            clusters = diffusion_clusters(
                embeddings, self.clusters, neighbours=self.neighbours, landmarks=self.landmarks, rng=rng
            )
        weights = self._weights(moved, clusters)
        worth = moved / cost.double().clamp(min=e).log()  # IES
        ranked = worth.argsort(descending=True, stable=True)
        queues = [ranked[clusters[ranked] == k].tolist() for k in range(len(weights))]
        chosen, rejected, examined = fill(queues, weights.tolist(), budget, concepts)
        back = sorted(rejected, key=lambda i: (-float(worth[i]), i))[: budget - len(chosen)]
        return Selected(
            positions=torch.tensor(sorted(chosen + back), dtype=torch.long),
            clusters=clusters,
            degradation=moved,
            allocation=weights / weights.sum(),
            rejected=len(rejected),
            examined=examined,
            readmitted=len(back),
        )

    def _read(self, original: Module, pruned: Module, data: Data[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings [n, width], degradation [n] and cost [n], in one pass of each model."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        with evaluating(original), evaluating(pruned):
            for batch in data.batches():
                read = reading(original, data.task, batch, hidden=self.embed is None)
                other = data.task.outputs(pruned, batch).to(read.logits.device)
                if other.shape != read.shape:
                    raise InputError(
                        f"PASER: the original's logits are {tuple(read.shape)}, the pruned model's "
                        f"{tuple(other.shape)}. They must share one vocabulary."
                    )
                if not bool(read.answered.any(1).all()):
                    raise InputError("PASER: an example has no answer: all its labels are -100.")
                if self.degradation == "loss":
                    before, after = (data.task.losses(m, batch).cpu() for m in (original, pruned))
                    moved = (after - before).clamp(min=0)
                else:
                    other = other.view(len(other), -1, other.shape[-1])
                    moved = divergence(read.logits, other, read.answered, self.degradation)
                where = self.embed(original, batch) if self.embed else read.meaning()
                cost = self.cost(batch) if self.cost else read.tokens.sum(1) ** 2
                found.append((where.detach().float().cpu(), moved.double().cpu(), cost.cpu()))
        embeddings, moved, cost = (torch.cat(part) for part in zip(*found, strict=True))
        if not bool(moved.isfinite().all()):
            raise InputError("PASER: an answer of one of the models is not finite.")
        return embeddings, moved, cost

    def _weights(self, moved: Tensor, clusters: Tensor) -> Tensor:
        """What each cluster's share of the budget is in proportion to, [clusters]; not all zero."""
        sizes = clusters.bincount()
        weights = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, clusters, moved) / sizes.clamp(
            min=1
        )
        if self.allocation == "uniform":
            return (sizes > 0).double()
        if float(weights.sum()) == 0:
            warnings.warn("PASER: the two models answer alike; the budget is shared equally.", stacklevel=3)
            return (sizes > 0).double()
        return weights

    def _concepts(self, data: Data[Any]) -> Callable[[int], set[Hashable]] | None:
        if self.concepts == "phrases":
            known = key_phrases(data)
            return lambda i: set(known[i])
        extract = self.concepts
        return None if extract is None else lambda i: set(extract(data.examples[i]))
