"""Groups of units that fall together, read off one run of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, MultiheadAttention, RNNBase, RNNCellBase
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from .labels import Fields, Ledger, lean, varying
from .rules import Call, pointwise
from .table import RULES

OUTPUT = "they are the model's output"
"""Why the units of a last layer stay."""

Place = tuple[str, int]
"""A tensor's name, and one of its dimensions."""


@dataclass(frozen=True)
class Group:
    """Units of a model that are alike and of which any may go: channels, heads, inner units of a feed-forward.

    Attributes:
        places: (tensor, dimension) -> indices there of each unit, int64 [units, indices].
        reads: those places that sum over the units, such as the columns of the layer that comes after.
        counted: whether the statistics of a normalisation count the units, so that cutting even dead ones is felt.
        of: int64 [units], the larger unit of another group that each is a part of, which all share what that has
            besides: query heads, of which several read the same keys and values. As many must go of each. None if
            they share nothing.
    """

    places: dict[Place, Tensor]
    reads: frozenset[Place]
    counted: bool = False
    of: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.places.values())))

    @property
    def makers(self) -> dict[Place, Tensor]:
        """The places that make the units or act on each alone."""
        return {place: at for place, at in self.places.items() if place not in self.reads}

    @property
    def silencers(self) -> dict[Place, Tensor]:
        """The places that are zero where a unit is dead: its makers, or of those that share some, all that it has."""
        return self.makers if self.of is None else self.places

    def is_part_of(self, other: Group) -> bool:
        """Whether the units are parts of those of another group."""
        return self.of is not None and other.of is None and self.places.keys() < other.places.keys()

    def rows(self, order: Tensor) -> Tensor:
        """The units of each larger one in a row, in a given order, int64 [larger units, of each].

        Args:
            order: int64 [units], a permutation.
        """
        assert self.of is not None
        return order[self.of[order].argsort(stable=True)].view(int(self.of.max()) + 1, -1)


@dataclass(frozen=True)
class Units:
    """What of a model can be cut.

    Attributes:
        groups: in the order of the model's tensors; after them those whose units are parts of others' (`Group.of`).
        whole: (tensor, dimension) -> why its units stay.
    """

    groups: list[Group]
    whole: dict[Place, str]


def find_units(model: Module, run: Callable[[Module], Any]) -> Units:
    """Which units of a model fall together, seen by following each through one run.

    Every row and column of every weight gets a label; each operation says which labels go on, and which meet. No name
    in the model is read, and no gradient taken. What an operation without a rule reads stays whole, and so do recurrent
    layers and torch's own multi-head attention, which keep their widths.

    Args:
        model: run once, in eval mode, with torch's plain attention.
        run: calls the model, and returns what it answers.

    Returns:
        The groups; and why the other dimensions of its weights stay.
    """
    trace = _Trace(model)
    modes = {module: module.training for module in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        model.eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), trace:
            out = run(model)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in modes.items():
            module.training = mode
    for tensor in answers(out):
        trace.ledger.fix(trace.fields(tensor), OUTPUT)
    return trace.found()


def answers(out: Any) -> Iterator[Tensor]:
    """The tensors that a model answers with; of an output with logits those alone."""
    if hasattr(out, "logits"):
        out = out.logits
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, dict):
        for value in out.values():
            if isinstance(value, Tensor):
                yield value
    elif isinstance(out, tuple | list):
        for value in out:
            yield from answers(value)


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, model: Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self._fields: dict[int, Fields] = {}
        self._held: list[Any] = []
        self._weights: set[int] = set()
        self._sources: list[tuple[str, int, Tensor]] = []
        seen: set[int] = set()
        keeps = {
            id(p): f"a {type(m).__name__} keeps its width"
            for m in model.modules()
            if isinstance(m, MultiheadAttention | RNNBase | RNNCellBase)
            for p in m.parameters()
        }
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if id(tensor) in seen or not tensor.is_floating_point():
                continue
            seen.add(id(tensor))
            self._held.append(tensor)
            self._weights.add(id(tensor))
            fields = []
            for dim, size in enumerate(tensor.shape):
                if size > 1:
                    own = self.ledger.fresh(size)
                    self._sources.append((name, dim, own))
                    shape = [size if d == dim else 1 for d in range(tensor.ndim)]
                    fields.append(own.view(shape).expand(tensor.shape))
            if id(tensor) in keeps:
                self.ledger.fix(fields, keeps[id(tensor)])
            self._fields[id(tensor)] = fields

    def fields(self, tensor: Any) -> Fields:
        """Labels of a tensor."""
        return self._fields.get(id(tensor), []) if isinstance(tensor, Tensor) else []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [t for t in _tensors((args, kwargs)) if self._fields.get(id(t))]
        name = func.name().partition("::")[2].partition(".")[0]
        if not given and not (name == "expand" and out.is_floating_point()):
            return out
        self._held.append((args, kwargs, out))
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = pointwise
        call = Call(name, func, args, kwargs, out, self.fields, lambda t: id(t) in self._weights)
        if rule is None:
            for tensor in given:
                self.ledger.fix(self.fields(tensor), f"they run through {name}, which is not followed")
            return out
        try:
            found = rule(self.ledger, call)
        except (
            RuntimeError,
            IndexError,
            ValueError,
            TypeError,
            AttributeError,
        ):  # a call of a form unknown to it
            for tensor in given:
                self.ledger.fix(self.fields(tensor), f"they run through a {name} that is not followed")
            return out
        if isinstance(out, Tensor):
            self._keep(out, found)
        else:
            for tensor, fields in zip(out, found, strict=False):
                self._keep(tensor, fields)
        if rule is RULES["view"] and id(args[0]) in self._weights:
            self._weights |= {id(t) for t in _tensors(out)}
        return out

    def _keep(self, tensor: Any, fields: Fields) -> None:
        if isinstance(tensor, Tensor):
            self._fields[id(tensor)] = [g for f in fields if varying(g := lean(f))]

    def found(self) -> Units:
        """The groups, after the run."""
        unit = self.ledger.units()
        groups, free = self._groups(unit)
        if self.ledger.copies:
            for group in self._groups(self.ledger.units(apart=True))[0]:
                part = self._part(group, unit)
                if part is not None:
                    groups.append(part)
                    free |= {
                        i for i, (name, dim, _) in enumerate(self._sources) if (name, dim) in part.places
                    }
        return Units(groups, self._whole(unit, free))

    def _part(self, group: Group, unit: np.ndarray) -> Group | None:
        """The group with the larger units that its own are parts of, as many of each; None if they are no parts."""
        (name, dim), at = next(iter(group.places.items()))
        own = next(labels for n, d, labels in self._sources if (n, d) == (name, dim))
        _, of, sizes = np.unique(unit[own[at[:, 0]].numpy()], return_inverse=True, return_counts=True)
        if sizes[0] < 2 or (sizes != sizes[0]).any():
            return None
        return replace(group, of=torch.from_numpy(of.reshape(-1)).long())

    def _groups(self, unit: np.ndarray) -> tuple[list[Group], set[int]]:
        """The groups of such units, and which tensors' dimensions they are of."""
        pinned = _of(unit, self.ledger.pinned)
        read = _flags(self.ledger.read, self.ledger.size) & ~_flags(self.ledger.made, self.ledger.size)
        counted = set(_of(unit, self.ledger.counted))
        members: dict[int, list[tuple[int, np.ndarray]]] = {}
        for i, (_, _, own) in enumerate(self._sources):
            numbers = unit[own.numpy()]
            order = np.argsort(numbers, kind="stable")
            cuts = np.flatnonzero(np.diff(numbers[order])) + 1
            for at in np.split(order, cuts):
                members.setdefault(int(numbers[at[0]]), []).append((i, at))
        alike: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for number, parts in members.items():
            if number not in pinned:
                alike.setdefault(tuple((i, len(at)) for i, at in parts), []).append(number)
        groups: list[Group] = []
        free: set[int] = set()
        for signature, numbers in alike.items():
            if len(numbers) < 2:
                continue
            places = {}
            for k, (i, _) in enumerate(signature):
                name, dim, _ = self._sources[i]
                places[name, dim] = torch.from_numpy(np.stack([members[n][k][1] for n in numbers]))
            reads = frozenset(
                self._sources[i][:2] for i, _ in signature if bool(read[self._sources[i][2][0]])
            )
            if not reads or len(reads) == len(places):
                continue  # nothing makes them, or nothing reads them
            free |= {i for i, _ in signature}
            groups.append(Group(places, reads, any(n in counted for n in numbers)))
        return groups, free

    def _whole(self, unit: np.ndarray, free: set[int]) -> dict[Place, str]:
        whys: dict[int, str] = {}
        for labels, why in self.ledger.whys:
            for number in np.unique(unit[labels.numpy()]).tolist():
                whys.setdefault(number, why)
        return {
            (name, dim): whys.get(int(unit[int(own[0])]), "nothing in the run says which of them go together")
            for i, (name, dim, own) in enumerate(self._sources)
            if i not in free
        }


def _of(unit: np.ndarray, labels: list[Tensor]) -> list[int]:
    return np.unique(unit[torch.cat(labels).numpy()]).tolist() if labels else []


def _flags(labels: list[Tensor], size: int) -> Tensor:
    flags = torch.zeros(size, dtype=torch.bool)
    for some in labels:
        flags[some] = True
    return flags


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, tuple | list):
        for value in nested:
            yield from _tensors(value)
    elif isinstance(nested, dict):
        yield from _tensors(tuple(nested.values()))
