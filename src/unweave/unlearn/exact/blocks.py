"""A transformer's blocks, their query and value projections and its head, found by structure and not by name.

Names of layers are whole and their numbers are counted: no part of a name is ever searched for, or layer 1 would also
be found in layers 10 and 11.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Linear, Module, ModuleList, Sequential

from ...errors import InputError
from ...tasks import evaluating
from ...types import Batch, Data


def blocks(model: Module, layers: str = "", who: str = "S3T") -> list[str]:
    """Whole names of a model's blocks, the first first: the longest list of modules that are all of one type.

    Args:
        model: with such a list, of two blocks or more.
        layers: name of the list, where there are several or it is a Sequential.
        who: needs them; begins the message.

    Raises:
        InputError: if there is no such list, two are the longest, or `layers` names none.
    """
    if layers:
        named = dict(model.named_modules()).get(layers)
        if not isinstance(named, (ModuleList, Sequential)) or len({type(m) for m in named}) != 1:
            raise InputError(
                f"{who}.layers={layers!r} names no list of equal blocks. There are: {_told(_stacks(model)) or 'none'}."
            )
        return [f"{layers}.{i}" for i in range(len(named))]
    found = _stacks(model)
    longest = [name for name, n in found.items() if n == max(found.values())]
    if len(longest) != 1:
        what = (
            f"has several of one length: {_told(found)}"
            if found
            else "has none (no ModuleList of two or more)"
        )
        raise InputError(
            f"{who} needs a model with a stack of equal blocks, as transformers are; this {type(model).__name__} "
            f"{what}. {'Say which in layers.' if found else 'Use sisa for it.'}"
        )
    return [f"{longest[0]}.{i}" for i in range(found[longest[0]])]


def groups(names: Sequence[str], slices: int, first: str = "top", who: str = "S3T") -> list[tuple[str, ...]]:
    """Cut blocks into as many equal groups as there are slices; group i is trained at stage i.

    Args:
        names: of the blocks, the lowest first.
        slices: how many groups.
        first: "top" counts groups from the last block down, "bottom" from the first up.
        who: begins the message.

    Raises:
        InputError: if that leaves blocks over; it lists the numbers that do not.

    Example:
        >>> groups(["h.0", "h.1", "h.2", "h.3"], 2)
        [('h.2', 'h.3'), ('h.0', 'h.1')]
    """
    n = len(names)
    if n % slices:
        fit = ", ".join(str(k) for k in range(1, n + 1) if n % k == 0)
        raise InputError(
            f"{who}.slices must divide the model's {n} blocks, for each slice has a group of them of its own; got "
            f"{slices}. These do: {fit}."
        )
    width = n // slices
    found = [tuple(names[i : i + width]) for i in range(0, n, width)]
    return found[::-1] if first == "top" else found


def query_and_value(
    model: Module, data: Data[Any], names: Sequence[str], who: str = "S3T"
) -> tuple[str, ...]:
    """Names, within a block, of the linear layers that make queries and values, found by what they do.

    The three projections of an attention are linear layers of one module that read the very same tensor, and what they
    make of it together is read by the linear layer after them. Changing one at one position changes that at this
    position alone if it makes queries, and that is affine in one that makes values. Which layers are found follows from
    the model alone: the batch only drives it.

    Args:
        model: left unchanged.
        data: its first batch is run, of texts or patches of at least three positions.
        names: of all blocks; the last is looked at.
        who: begins the message.

    Raises:
        InputError: if they cannot be told, as where the three are one fused layer.
    """
    block, batch = names[-1], next(data.subset(range(min(8, len(data)))).batches())
    with evaluating(model):
        for children, reader in _siblings(model, data, batch, block):
            roles = {child: _role(model, data, batch, child, reader) for child in children}
            found = [child for role in ("query", "value") for child in children if roles[child] == role]
            if len(found) == 2 and sorted(roles.values()) == ["key", "query", "value"]:
                return tuple(child.removeprefix(f"{block}.") for child in found)
    linear = [n for n, m in model.get_submodule(block).named_modules() if isinstance(m, Linear)]
    raise InputError(
        f"{who} found no query and value projections in {block}: no three linear layers of one module that read one "
        f"tensor and act as query, key and value. Name the layers to adapt in targets; {block} has "
        f"{', '.join(linear) or 'no Linear'}."
    )


def head_of(model: Module, data: Data[Any], names: Sequence[str], who: str = "S3T") -> str:
    """Name of the head: the linear layer outside the blocks that runs last.

    Raises:
        InputError: if there is none, or its weight is also another layer's (a tied language model).
    """
    ran: list[str] = []
    stack = names[0].rpartition(".")[0]
    outside = {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, Linear) and not f"{n}.".startswith(f"{stack}.")
    }
    handles = [m.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, m in outside.items()]
    try:
        with evaluating(model):
            data.task.outputs(model, next(data.subset(range(1)).batches()))
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise InputError(
            f"{who} found no head: no linear layer outside {stack} runs. Name it in heads, or set head='frozen'."
        )
    require_untied(model, ran[-1], who)
    return ran[-1]


def require_untied(model: Module, name: str, who: str) -> None:
    """Refuse a head whose parameters are another module's too: training it would change that one."""
    own = {id(p) for p in model.get_submodule(name).parameters()}
    others = [
        n
        for n, p in model.named_parameters(remove_duplicate=False)
        if id(p) in own and not n.startswith(f"{name}.")
    ]
    if others:
        raise InputError(
            f"{who} cannot train the head {name}: its weight is also {others[0]}. Set head='frozen', or untie them."
        )


def _stacks(model: Module) -> dict[str, int]:
    return {
        name: len(m)
        for name, m in model.named_modules()
        if isinstance(m, ModuleList) and len(m) > 1 and len({type(child) for child in m}) == 1
    }


def _told(found: dict[str, int]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in found.items())


def _siblings(model: Module, data: Data[Any], batch: Batch, block: str) -> list[tuple[list[str], str]]:
    """Threes of linear layers of one module that read one and the same tensor, with the linear layer that runs next."""
    read: dict[str, int] = {}
    kept: list[Tensor] = []  # alive, so that no two tensors share an id
    inner = {
        f"{block}.{n}": m for n, m in model.get_submodule(block).named_modules() if isinstance(m, Linear)
    }

    def note(name: str, args: tuple[Any, ...]) -> None:
        kept.append(args[0])
        read[name] = id(args[0])

    handles = [m.register_forward_pre_hook(lambda _, args, n=n: note(n, args)) for n, m in inner.items()]
    try:
        data.task.outputs(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[tuple[str, int], list[str]] = {}
    for name, tensor in read.items():
        found.setdefault((name.rpartition(".")[0], tensor), []).append(name)
    ran = list(read)
    after = [(three, ran[ran.index(three[-1]) + 1 :]) for three in found.values() if len(three) == 3]
    return [(three, rest[0]) for three, rest in after if rest]


def _role(model: Module, data: Data[Any], batch: Batch, child: str, reader: str) -> str:
    """What a projection makes of an attention whose mixture `reader` reads: "query", "key", "value", or ""."""
    layer, after = model.get_submodule(child), model.get_submodule(reader)

    def answer(change: Any) -> Tensor:
        with _changed(layer, change), _watched(after) as seen:
            data.task.outputs(model, batch)
        return seen[-1].double()

    plain = answer(lambda out: out)
    if plain.ndim != 3 or plain.shape[1] < 3:
        return ""
    middle = plain.shape[1] // 2

    def moved(out: Tensor) -> Tensor:
        out = out.clone()
        out[:, middle] = -2 * out[:, middle] + 1
        return out

    size = float(plain.abs().max())
    apart = (answer(moved) - plain).abs().amax((0, 2)) > 1e-5 * size
    if not bool(apart.any()):
        return ""
    if int(apart.sum()) == 1:
        return "query" if bool(apart[middle]) else ""
    none, twice = answer(lambda out: 0 * out), answer(lambda out: 2 * out)
    bend = float((none + twice - 2 * plain).abs().max())
    return "value" if bend <= 1e-4 * float((twice - none).abs().max()) else "key"


@contextmanager
def _changed(layer: Module, change: Any) -> Iterator[None]:
    handle = layer.register_forward_hook(lambda _, __, out: change(out))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(module: Module) -> Iterator[list[Tensor]]:
    """What the module reads, at each call."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        handle.remove()
