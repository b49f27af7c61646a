"""UNCURL: merge a task's many experts into few, by what the router thinks of them on that task, then tune.

Sarkar, Lausen, Cevher, Zha, Brox, Karypis, "Revisiting SMoE Language Models by Evaluating Inefficiencies with Task
Specific Expert Pruning", NeurIPS 2024 workshop ENLSP-IV (https://arxiv.org/abs/2409.01483). From the paper's abstract
and summaries: spectral clustering of the router's logits on task data, permutation alignment of hidden units inside a
cluster, averages weighted by activation, then fine-tuning on the task. The rest is decided here, as in the method card:

- Each token's mean logit is taken off, since a softmax does not see it; then columns are standardised over all tokens
  that are no padding. Affinity A_ij = (1 + correlation of columns) / 2, A_ii = 0.
- L = I - D^(-1/2) A D^(-1/2); the rows of its M lowest eigenvectors, each of length 1, go through k-means (10 starts).
- The reference of a cluster is its most chosen member, c_e being how many tokens chose expert e.
- Experts that no token chose would make clusters of their own: they join the cluster of highest mean affinity and
  weigh nothing, unless fewer experts were chosen than clusters are asked for.
- `router="fold"` gives a plain, smaller model: a cluster's router row is the mean of its members' weighted by c_e, and
  where the router has a bias, the log of the cluster's share of the choices is added. Where the layer's answers then
  differ by more than 0.3 of their size, the rows are fitted to the original's choice of cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..models.moe import MoE, Routed, moe_layers
from ..models.moe.cut import groups_of
from ..paper import Paper
from ..random import draw_seed
from ..settings import Count, Positive, SomeShare, refuse_idle, settings
from ..types import Data
from ._budget import calibration, experts_for, show_routing
from ._fold import fold_
from ._merge import merge_, ordered, refuse_scaled_inputs
from ._recover import Recovery, matrix_places, recover_
from .mc_smoe import grouped

_SHOWN = 2048  # tokens of each layer that folded rows are judged and fitted on
Cluster = Literal["spectral", "agglomerative", "k-means", "dominant"]


@dataclass(frozen=True)
class Merging:
    """What becomes one expert, block by block.

    Attributes:
        clusters: block -> lists of experts, the reference first.
        usage: block -> how many tokens chose each expert [N].
        load: block -> share of all choices that the busiest cluster gets; 1 / M would be even.
    """

    clusters: Mapping[str, list[list[int]]]
    usage: Mapping[str, Tensor]
    load: Mapping[str, float]


@settings
class UNCURL:
    """Merge the experts of each layer that the router scores alike on a task's texts, then tune on them.

    Attributes:
        experts: how many stay in each layer; as many as `memory` pays for unless given.
        memory: share of the model's parameters to end with, at most.
        cluster: how experts are grouped; "dominant" puts each with the most alike of the M most chosen ones.
        feature: what makes two alike: router logits, mean answers over all tokens, or weights.
        align: permute hidden units to fit the reference before averaging: by weights, by activations, or not.
        merge: weights of the mean: how often each is chosen ("frequency"), equal, or the reference alone ("max").
        router: "tied" hands the router's outputs on to the merged experts; "fold" averages its rows, which
            transformers reads.
        examples: texts of the task, evenly spaced through the data, that experts are compared on.
        recover: tuning on all of the data: none, all parameters on the texts ("lm"), a low-rank change of matrices
            ("lora"), or all parameters towards the original's predictions ("distil").
        recover_epochs: passes over the data.
        recover_lr: peak rate of AdamW.
    """

    experts: Count | None = None
    memory: SomeShare = 0.725
    cluster: Cluster = "spectral"
    feature: Literal["router logits", "answers", "weights"] = "router logits"
    align: Literal["weights", "activations", "none"] = "weights"
    merge: Literal["frequency", "equal", "max"] = "frequency"
    router: Literal["tied", "fold"] = "tied"
    examples: Count = 128
    recover: Recovery = "none"
    recover_epochs: Count = 3
    recover_lr: Positive = 2e-5

    paper: ClassVar[Paper] = Paper(
        "Revisiting SMoE Language Models by Evaluating Inefficiencies with Task Specific Expert Pruning",
        "Sarkar, Lausen, Cevher, Zha, Brox, Karypis", "NeurIPS workshop ENLSP", 2024, "2409.01483",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.experts is not None:
            refuse_idle(self, "memory", when="with experts: it says how many")
        if self.merge == "max":
            refuse_idle(self, "align", when='with merge="max": nothing is averaged')
        if self.recover == "none":
            refuse_idle(self, "recover_epochs", "recover_lr", when='with recover="none"')

    def apply(self, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model` whose experts were merged.

        Args:
            model: with mixture-of-experts layers; left unchanged.
            data: texts of the task.
            rng: for the starts of k-means and the order of the tuning.

        Raises:
            EmptyDataError: if there is no text.
            InputError: if there is no such layer, the number does not fit, the model weighs what experts read, or its
                router tells no logits.
        """
        return self.carry_out(self.choose(model, data, rng=rng), model, data, rng=rng)

    def check(self, model: Module) -> int:
        """How many experts stay in a layer, once that is known to fit; errors as in `apply`."""
        moes = moe_layers(model, "UNCURL")
        refuse_scaled_inputs(moes)
        fold = self.router == "fold"
        if fold and groups_of(model) > 1:
            raise InputError(
                'UNCURL.router="fold" does not fit a router that chooses groups of experts first. Take "tied".'
            )
        keep = experts_for("UNCURL", model, moes, self.memory, self.experts, router=fold)
        if self.experts is not None and keep >= moes[0].count:
            raise InputError(
                f"UNCURL.experts must be below {moes[0].count}, the experts of {moes[0].name}; got {keep}: nothing "
                "would be merged."
            )
        return keep

    def choose(self, model: Module, data: Data[Any], *, rng: Generator) -> Merging:
        """Which experts become one, without changing the model; arguments and errors as in `apply`."""
        texts = calibration("UNCURL", data, self.examples, rng)
        keep, moes = self.check(model), moe_layers(model, "UNCURL")
        seen = {moe.name: Alike(moe, self.feature) for moe in moes}
        show_routing("UNCURL", model, texts, moes, lambda moe, routed: seen[moe.name].add(routed))
        usage = {name: part.usage for name, part in seen.items()}
        clusters = {}
        for name, part in seen.items():
            found = clustered(part.affinity(), part.usage, keep, self.cluster, draw_seed(rng))
            clusters[name] = [sorted(c, key=lambda e: (-float(usage[name][e]), e)) for c in found]
        load = {
            n: max(float(usage[n][c].sum()) for c in cs) / float(usage[n].sum()) for n, cs in clusters.items()
        }
        return Merging(clusters, usage, load)

    def carry_out(self, merging: Merging, model: Module, data: Data[Any], *, rng: Generator) -> Module:
        """A copy of `model`, merged by what was chosen for it; arguments as in `apply`."""
        edited = copied(model)
        moes = moe_layers(edited, "UNCURL")
        weights = {name: self._weights(merging, name) for name in merging.clusters}
        samples = {}
        if self.router == "fold" or self.align == "activations":
            samples = _samples(model, calibration("UNCURL", data, self.examples, rng))
        align: Any = self.align == "weights"
        if self.align == "activations":
            align = lambda moe, a, b: _by_activation(a, b, samples[moe.name])  # noqa: E731
        if self.router == "tied":
            merge_(edited, moes, merging.clusters, weights, align=align)
        else:
            fold_(edited, moes, merging.clusters, merging.usage, weights, align, samples, "UNCURL")
        if self.recover != "none":
            places = matrix_places(edited)
            if self.recover != "lora":
                places = [(m, n) for m in edited.modules() for n, _ in m.named_parameters(recurse=False)]
            recover_(
                edited, model, data, places, by=self.recover, epochs=self.recover_epochs, lr=self.recover_lr,
                warm=0.06, floor=0.0, rng=rng,
            )  # fmt: skip
        return edited

    def _weights(self, merging: Merging, name: str) -> Tensor:
        usage = merging.usage[name]
        if self.merge == "max":
            first = [c[0] for c in merging.clusters[name]]
            return torch.zeros_like(usage).index_fill(0, torch.tensor(first), 1.0)
        return usage if self.merge == "frequency" else torch.ones_like(usage)


class Alike:
    """How alike the experts of a block are, gathered a batch at a time.

    Args:
        moe: the block.
        feature: see `UNCURL.feature`.
    """

    def __init__(self, moe: MoE, feature: str) -> None:
        self.moe, self.feature, self.tokens = moe, feature, 0
        self.usage = torch.zeros(moe.count, dtype=torch.float64)
        self.sums = torch.zeros(moe.count, moe.width if feature == "answers" else 1, dtype=torch.float64)
        self.products = torch.zeros(moe.count, moe.count, dtype=torch.float64)

    def add(self, routed: Routed) -> None:
        """Add a batch.

        Raises:
            InputError: if logits are needed and the router tells none.
        """
        self.tokens += len(routed.hidden)
        for e in range(self.moe.count):
            self.usage[e] += len(routed.of(e)[0])
            if self.feature == "answers":
                self.sums[e] += self.moe.expert(e)(routed.hidden).double().sum(0).cpu()
        if self.feature == "router logits":
            if routed.logits is None:
                raise InputError(
                    f"UNCURL: the router of {self.moe.name} tells no logits to compare experts by."
                )
            z = routed.logits.double()
            z = (z - z.mean(1, keepdim=True)).cpu()
            self.sums += z.sum(0)[:, None]
            self.products += z.T @ z

    def affinity(self) -> Tensor:
        """(1 + cosine) / 2 of the experts' features [N, N]; 0 with itself."""
        if self.feature == "router logits":
            means = self.sums / self.tokens
            inner = self.products / self.tokens - means @ means.T  # of columns around their means
        else:
            rows = self.sums if self.feature == "answers" else _flat(self.moe)
            inner = rows @ rows.T
        size = inner.diagonal().clamp(min=1e-30).sqrt()
        cosine = (inner / size[:, None] / size).clamp(-1, 1)
        return ((1 + cosine) / 2).fill_diagonal_(0)


def clustered(affinity: Tensor, usage: Tensor, keep: int, how: Cluster, seed: int) -> list[list[int]]:
    """At most `keep` clusters of experts by their affinity [N, N]; those never chosen join where they fit best.

    Args:
        affinity: at least 0, symmetric.
        usage: tokens that chose each [N].
        keep: how many clusters.
        how: see `UNCURL.cluster`.
        seed: of k-means.
    """
    active = (usage > 0).nonzero().flatten()
    if len(active) < keep:
        active = torch.arange(len(usage))
    inner = affinity[active][:, active]
    if how == "dominant":
        first = usage[active].sort(descending=True, stable=True).indices[:keep].tolist()
        local = grouped(inner, first)
    else:
        labels = _labels(inner, keep, how, seed)
        local = [[i for i, label in enumerate(labels) if label == c] for c in sorted(set(labels))]
    clusters = [[int(active[i]) for i in part] for part in local]
    joined = [list(c) for c in clusters]
    for e in sorted(set(range(len(usage))) - set(active.tolist())):
        joined[max(range(len(clusters)), key=lambda c: float(affinity[e, clusters[c]].mean()))].append(e)
    return joined


def spectral(affinity: Tensor, keep: int) -> Tensor:
    """Rows of the `keep` lowest eigenvectors of the normalised Laplacian, each of length 1: [N, keep]."""
    root = affinity.sum(1).clamp(min=1e-30).rsqrt()
    laplacian = torch.eye(len(affinity), dtype=affinity.dtype) - root[:, None] * affinity * root
    rows = torch.linalg.eigh(laplacian).eigenvectors[:, :keep]
    unit: Tensor = F.normalize(rows, dim=1)
    return unit


def _labels(affinity: Tensor, keep: int, how: Cluster, seed: int) -> list[int]:
    from sklearn.cluster import AgglomerativeClustering, KMeans

    if how == "agglomerative":
        apart = (1 - affinity).fill_diagonal_(0).numpy()
        found: list[int] = (
            AgglomerativeClustering(keep, metric="precomputed", linkage="average").fit_predict(apart).tolist()
        )
        return found
    rows = spectral(affinity, keep)
    if how == "k-means":  # features whose cosines are those of the affinity
        values, vectors = torch.linalg.eigh((2 * affinity - 1).fill_diagonal_(1.0))
        rows = vectors * values.clamp(min=0).sqrt()
    drawn: list[int] = KMeans(keep, n_init=10, random_state=seed % 2**32).fit_predict(rows.numpy()).tolist()
    return drawn


def _flat(moe: MoE) -> Tensor:
    parts = [moe.expert(e) for e in range(moe.count)]
    return torch.stack(
        [torch.cat([w.detach().double().cpu().flatten() for w in (p.gate, p.up, p.down)]) for p in parts]
    )


def _samples(model: Module, texts: Data[Any]) -> dict[str, Tensor]:
    """What each block reads, its first tokens [n, H]."""
    held: dict[str, list[Tensor]] = {}

    def see(moe: MoE, routed: Routed) -> None:
        kept = held.setdefault(moe.name, [])
        kept.append(routed.hidden[: max(0, _SHOWN - sum(map(len, kept)))].detach())

    show_routing("UNCURL", model, texts, moe_layers(model, "UNCURL"), see)
    return {name: torch.cat(parts) for name, parts in held.items()}


def _by_activation(reference: Any, part: Any, x: Tensor) -> Any:
    """A feed-forward with its hidden units where their activations correlate best with a reference's."""
    units = [m.inner(x).detach().double() for m in (reference, part)]
    a, b = (F.normalize(u - u.mean(0), dim=0) for u in units)
    return ordered(part, a.T @ b)
