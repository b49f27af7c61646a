"""All-to-all in two steps: first inside each node, then among the workers of one place in all nodes (SE-MoE).

Rank = node * G + local. Step 1 sends to local peer j all that is for rank (m, j), for every node m; step 2 sends to
node m all that the node's workers have for (m, own place). Across nodes that is G times fewer messages, each G times as
large. What arrives is what one flat exchange gives, in the same order and to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...errors import InputError


@dataclass(frozen=True)
class Hierarchy:
    """The process groups of the two steps, for the calling rank; make it with `of`.

    Attributes:
        nodes: P.
        local: workers a node, G.
        within: the group of the own node.
        across: the group of the workers in the own place of all nodes.
    """

    nodes: int
    local: int
    within: Any
    across: Any

    @classmethod
    def of(cls, local: int) -> Hierarchy:
        """Make the groups; every rank must call it.

        Args:
            local: workers a node.

        Raises:
            InputError: if no process group is there, or its size is no multiple of `local`.
        """
        if not dist.is_initialized():
            raise InputError(
                "Hierarchy needs a process group. Call torch.distributed.init_process_group first."
            )
        world, rank = dist.get_world_size(), dist.get_rank()
        if local < 1 or world % local:
            raise InputError(f"Hierarchy.of: {world} workers are no multiple of {local} a node.")
        nodes = world // local
        within = [dist.new_group([m * local + j for j in range(local)]) for m in range(nodes)]
        across = [dist.new_group([m * local + j for m in range(nodes)]) for j in range(local)]
        return cls(nodes, local, within[rank // local], across[rank % local])


def hierarchical_all_to_all(
    rows: Tensor, splits: Sequence[int], hierarchy: Hierarchy
) -> tuple[Tensor, list[int]]:
    """Exchange rows among all ranks in two steps.

    Args:
        rows: [n, ...], those for rank 0 first.
        splits: how many are for each rank; they sum to n, and may be 0.
        hierarchy: the groups.

    Returns:
        The rows that all ranks sent here, rank 0's first, and how many each sent.

    Raises:
        InputError: if the splits do not fit.
    """
    nodes, local = hierarchy.nodes, hierarchy.local
    _require(rows, splits, nodes * local)
    chunks = torch.split(rows, list(splits))
    order = [m * local + j for j in range(local) for m in range(nodes)]  # by local peer, then node
    counts = torch.tensor([splits[r] for r in order])
    parts, told = _swap(torch.cat([chunks[r] for r in order]), counts.view(local, nodes), hierarchy.within)
    # told [i, m]: rows of local peer i for (m, own place); regroup by node
    pieces = torch.split(parts, told.flatten().tolist())
    by_node = [(i, m) for m in range(nodes) for i in range(local)]
    sent = torch.cat([pieces[i * nodes + m] for i, m in by_node])
    got, shares = _swap(sent, told.T.contiguous(), hierarchy.across)
    return got, shares.flatten().tolist()


def flat_all_to_all(rows: Tensor, splits: Sequence[int], group: Any = None) -> tuple[Tensor, list[int]]:
    """The same exchange in one step; arguments, result and errors as of `hierarchical_all_to_all`."""
    _require(rows, splits, dist.get_world_size(group))
    got, told = _swap(rows, torch.tensor(list(splits))[:, None], group)
    return got, told.flatten().tolist()


def _swap(rows: Tensor, counts: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """Rows for each peer, of which counts [peers, parts] tells the parts -> theirs, and their counts for here."""
    told = torch.empty_like(counts)
    dist.all_to_all_single(told, counts.contiguous(), group=group)
    into, out = told.sum(1).tolist(), counts.sum(1).tolist()
    got = rows.new_empty(sum(into), *rows.shape[1:])
    dist.all_to_all_single(got, rows.contiguous(), into, out, group=group)
    return got, told


def _require(rows: Tensor, splits: Sequence[int], world: int) -> None:
    if len(splits) != world or min(splits) < 0 or sum(splits) != len(rows):
        raise InputError(
            f"all-to-all needs one count for each of {world} ranks, summing to {len(rows)} rows; got {list(splits)}."
        )
