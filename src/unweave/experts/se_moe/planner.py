"""How many workers each of several unequal tasks gets, so that their times even out (SE-MoE's elastic training)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import InputError


@dataclass(frozen=True)
class Plan:
    """Who works on what.

    Attributes:
        tasks: tasks that share their workers, by index; light ones are put together where tasks outnumber workers.
        workers: of each such group.
        times: of each group once its workers share it, in the unit of the measured times.
    """

    tasks: Sequence[Sequence[int]]
    workers: Sequence[int]
    times: Sequence[float]

    def weights(self, samples: Sequence[int]) -> list[float]:
        """Each group's share of the gradient, by how many samples it saw.

        Raises:
            InputError: if there is not one count a group, or none was seen.
        """
        if len(samples) != len(self.tasks) or sum(samples) <= 0 or min(samples) < 0:
            raise InputError(
                f"Plan.weights needs {len(self.tasks)} counts of samples, not all 0; got {samples}."
            )
        return [n / sum(samples) for n in samples]


def plan_workers(times: Sequence[float], workers: int) -> Plan:
    """Give N workers to tasks in proportion to their times: N t_i / sum(t) by largest remainders, at least one each.

    While tasks outnumber workers the two shortest are merged.

    Args:
        times: of one step of each task on one worker.
        workers: N.

    Raises:
        InputError: if there is no task or worker, or a time is not above 0.

    Example:
        >>> plan_workers([1, 1, 2, 4], 8).workers, plan_workers([1, 1, 2, 4], 3).tasks
        ([1, 1, 2, 4], [[0, 1], [2], [3]])
    """
    if not times or workers < 1 or not all(math.isfinite(t) and t > 0 for t in times):
        raise InputError(
            f"plan_workers needs times above 0 and at least one worker; got {list(times)} and {workers}."
        )
    groups = [([i], float(t)) for i, t in enumerate(times)]
    while len(groups) > workers:
        groups.sort(key=lambda g: (g[1], g[0]))
        (a, s), (b, t), *rest = groups
        groups = [(sorted([*a, *b]), s + t), *rest]
    groups.sort(key=lambda g: g[0])
    total = sum(t for _, t in groups)
    wanted = [workers * t / total for _, t in groups]
    given = [max(1, math.floor(w)) for w in wanted]
    while sum(given) < workers:
        given[max(range(len(given)), key=lambda i: (wanted[i] - given[i], -i))] += 1
    while sum(given) > workers:  # where raising to one took more than there is, the best served give
        given[max((i for i, n in enumerate(given) if n > 1), key=lambda i: (given[i] - wanted[i], -i))] -= 1
    return Plan([g for g, _ in groups], given, [t / n for (_, t), n in zip(groups, given, strict=True)])
