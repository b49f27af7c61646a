"""Pairs that the models so far place together, and batches made of such pairs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from ...errors import InputError
from ...random import draw_seed

Modality = Literal["both", "image", "text"]


@dataclass(frozen=True)
class Stages:
    """What the stages made.

    Attributes:
        experts: for each expert: path of a feed-forward -> its weights; the first is the base's own.
        clusters: of pairs, in each stage.
        dropped: share of the pairs that filled no batch, in each stage.
    """

    experts: Sequence[Mapping[str, Mapping[str, Tensor]]]
    clusters: Sequence[int]
    dropped: Sequence[float]


def pseudo_labels(
    embeddings: Tensor, former: Tensor, *, k_image: int, k_text: int, modality: Modality, rng: Generator
) -> Tensor:
    """Which pairs this model and all former ones place together, [n].

    Images and texts are clustered apart by k-means; the new label t k_image + i joins the former ones.

    Args:
        embeddings: of images and texts, each of length 1 [n, 2, width].
        former: labels so far [n]; zeros at first.
        k_image: clusters of images.
        k_text: clusters of texts.
        modality: which of the two count.
        rng: for the starts of k-means.

    Raises:
        InputError: if there are fewer pairs than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    n = len(embeddings)
    if n < max(k_image, k_text):
        raise InputError(
            f"CLIPMoE: {n} pairs are fewer than {max(k_image, k_text)} clusters. Give more pairs."
        )
    parts = []
    for which, k in ((0, k_image), (1, k_text)):
        means = MiniBatchKMeans(
            k,
            batch_size=min(n, 1_000_000),
            max_iter=500,
            tol=1e-5,
            n_init=3,
            random_state=draw_seed(rng) % 2**32,
        )
        parts.append(torch.from_numpy(means.fit_predict(embeddings[:, which].double().cpu().numpy())).long())
    image, text = parts
    new = {"both": text * k_image + image, "image": image, "text": text}[modality]
    joined = former * k_image * k_text + new
    return joined.unique(return_inverse=True)[1]  # type: ignore[no-any-return, no-untyped-call]


def cluster_batches(labels: Tensor, size: int, rng: Generator) -> list[list[int]]:
    """Batches of one cluster each, visited in turns; what is left of a cluster is dropped.

    Args:
        labels: of the pairs [n].
        size: pairs a batch.
        rng: for the order inside clusters.
    """
    queues = []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=rng)]
        queues.append([part.tolist() for part in members.split(size) if len(part) == size])
    turns = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
