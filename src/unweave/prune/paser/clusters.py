"""Groups of examples by what they mean: diffusion coordinates of a neighbour graph, and non-negative factors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors
from torch import Generator, Tensor

from ...errors import InputError
from ...random import draw_seed

Array = np.ndarray[Any, Any]


def diffusion_clusters(
    embeddings: Tensor, clusters: int | tuple[int, int], *, neighbours: int, landmarks: int, rng: Generator
) -> Tensor:
    """Cluster of each example, int64 [n].

    Similarity is S = |Z Z^T|, Z the leading `clusters` diffusion coordinates, factored as S ~ W H with W, H >= 0; an
    example belongs to the factor k with the largest W_ik |H_k|, which does not depend on how the two share their
    scale. H is found on the rows and columns of some landmarks and W for all rows given H, so that no n x n matrix is
    ever made; with n landmarks or more this is the whole factorisation.

    Args:
        embeddings: [n, width].
        clusters: how many, or (fewest, most): then the largest number whose relative error |S - W H| / |S| is within
            0.005 of the least, since where groups are well apart any number up to theirs has no error at all.
        neighbours: of each example in the graph, at the start.
        landmarks: examples, drawn at random, that H is found on.
        rng: draws landmarks and starting points.

    Raises:
        InputError: if embeddings are not finite, are all equal, or fewer than the clusters wanted.
    """
    low, high = (clusters, clusters) if isinstance(clusters, int) else clusters
    x = embeddings.double().numpy()
    n = len(x)
    if not np.isfinite(x).all():
        raise InputError("PASER: an embedding is not finite.")
    if n <= high:
        raise InputError(f"PASER: {n} examples are too few for {high} clusters. Lower clusters.")
    seed = draw_seed(rng) % 2**32
    coordinates = diffusion(affinity(x, neighbours, high), high, seed)
    chosen = torch.randperm(n, generator=rng)[:landmarks].numpy()
    fits: dict[int, tuple[float, NMF]] = {}
    for k in range(low, high + 1):
        square = _similar(coordinates[chosen, :k], coordinates[chosen, :k])
        factors = NMF(k, init="nndsvda", max_iter=200, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            factors.fit(square)
        fits[k] = float(factors.reconstruction_err_ / np.linalg.norm(square)), factors
    least = min(error for error, _ in fits.values())
    k = max(k for k, (error, _) in fits.items() if error <= least + 0.005)
    factors = fits[k][1]
    found = []
    for start in range(0, n, 4096):
        rows = _similar(coordinates[start : start + 4096, :k], coordinates[chosen, :k])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found.append(assign(factors.transform(rows), factors.components_))
    return torch.from_numpy(np.concatenate(found)).long()


def assign(w: Array, h: Array) -> Array:
    """The factor with the largest W_ik |H_k| of each row, [n]: how W and H share their scale does not matter."""
    best: Array = (w * np.linalg.norm(h, axis=1)).argmax(1)
    return best


def affinity(x: Array, neighbours: int, pieces: int) -> csr_matrix:
    """exp(-d^2 / 2 sigma^2) between nearest neighbours, sigma the median of their distances; symmetric, sparse [n, n].

    The number of neighbours is doubled until the graph falls into no more than `pieces` pieces, since with more of
    them than coordinates some examples would have no coordinate at all.
    """
    n, k = len(x), neighbours
    while True:
        k = min(k, n - 1)
        graph = NearestNeighbors(n_neighbors=k).fit(x).kneighbors_graph(mode="distance")
        apart = graph.data[graph.data > 0]
        if len(apart):
            graph.data = np.exp(-((graph.data / np.median(apart)) ** 2) / 2)
            graph = graph.maximum(graph.T).tocsr()
            if k == n - 1 or connected_components(graph)[0] <= pieces:
                return graph
        elif k == n - 1:
            raise InputError("PASER: all embeddings are equal, so there is nothing to cluster by.")
        k *= 2


def diffusion(graph: csr_matrix, k: int, seed: int) -> Array:
    """The k eigenvectors of I - D^-1 A with the smallest eigenvalues, each of length 1, [n, k].

    D^-1 A is not symmetric; its eigenvectors are D^-1/2 times those of D^-1/2 A D^-1/2, which is.
    """
    n = graph.shape[0]
    degree = np.asarray(graph.sum(1)).ravel()
    root = diags(degree**-0.5)
    normal = root @ graph @ root
    if n <= 500 or k >= n - 1:
        vectors = np.linalg.eigh(normal.toarray())[1][:, ::-1][:, :k]
    else:
        # eigenvalue 1 belongs to the pieces, once each: Lanczos from one start would miss some of them
        pieces, member = connected_components(graph)
        known = np.eye(pieces)[member] * np.sqrt(degree)[:, None]
        known /= np.linalg.norm(known, axis=0)
        rest = LinearOperator(
            (n, n), matvec=lambda v: normal @ v - 2 * (known @ (known.T @ v)), dtype=np.float64
        )
        vectors = known[:, :k]
        if k > pieces:
            start = np.random.default_rng(seed).standard_normal(n)
            more = k - pieces
            values, found = eigsh(rest, k=more, which="LA", v0=start, ncv=min(n, max(4 * more, 40)))
            vectors = np.hstack([known, found[:, np.argsort(-values)]])
    vectors = root @ vectors
    coordinates: Array = vectors / np.linalg.norm(vectors, axis=0)
    return coordinates


def _similar(a: Array, b: Array) -> Array:
    similar: Array = np.abs(a @ b.T)
    return similar
