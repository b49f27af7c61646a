"""What each operation of torch says about the units of what it reads and gives.

A rule gets the ledger, the call, and the fields of its tensors; it returns the fields of the result. Operations without
a rule keep all units that reach them whole, so that a model is never cut wrongly for what is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .labels import Fields, Ledger, core, lean, varying

FIXED = "they meet a tensor of a fixed size"


@dataclass
class Call:
    """One call of an operation.

    Attributes:
        name: of the operation, without overload.
        run: the operation itself.
        args: what it was called with.
        kwargs: the same, by name.
        out: what it gave.
        fields: looks up the fields of a tensor.
        weight: whether a tensor is a parameter, or a view of one.
    """

    name: str
    run: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    fields: Callable[[Any], Fields]
    weight: Callable[[Any], bool]

    def arg(self, i: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[i] if len(self.args) > i else self.kwargs.get(name, default)


Rule = Callable[[Ledger, Call], Any]


def pointwise(ledger: Ledger, call: Call) -> Fields:
    """Positions that are combined stand or fall together."""
    out = call.out if isinstance(call.out, Tensor) else call.out[0]
    given = [t for t in (*call.args, *call.kwargs.values()) if isinstance(t, Tensor)]
    return combined(ledger, [(t, call.fields(t)) for t in given], out.shape)


def combined(ledger: Ledger, given: Sequence[tuple[Tensor, Fields]], shape: torch.Size) -> Fields:
    """Fields of tensors that broadcast to a shape and are combined position by position."""
    wide = [
        (tuple(t.shape), [f.expand(shape) for f in fields]) for t, fields in given if t.numel() and t.ndim
    ]
    found: Fields = []
    for i, (_, fields) in enumerate(wide):
        for field in fields:
            for j, (other, theirs) in enumerate(wide):
                if i == j:
                    continue
                for dim in varying(field):
                    own = dim - len(shape) + len(other)
                    same = [g for g in theirs if dim in varying(g)]
                    for g in same:
                        if j > i or set(varying(g)) != set(varying(field)):
                            ledger.join(field, g)
                    if not same and own >= 0 and other[own] > 1:
                        field = ledger.merge(field, dim, FIXED)
            if varying(field) and not any(varying(field) == varying(g) for g in found):
                found.append(field)
    return found


_SAME = frozenset(
    "clone _to_copy contiguous alias detach lift_fresh zeros_like ones_like empty_like full_like rand_like randn_like "
    "bernoulli".split()
)
"""Operations whose result has the shape and the units of what they read."""


def moved(ledger: Ledger, call: Call) -> Any:
    """Positions are put elsewhere: labels with them."""
    parts = [_moved(ledger, call, field) for field in call.fields(call.args[0])]
    dims = _repeated(call)
    if dims:
        if not parts:  # not told apart where they are made, but each of its copies may go
            one = ledger.fresh(1)
            ledger.whys.append((one, FIXED))
            parts = [one.view([1] * call.out.ndim).expand(call.out.shape)]
        return [ledger.copied(field, dims) for field in parts]
    if isinstance(call.out, Tensor):
        return parts
    return [[part[i] for part in parts] for i in range(len(call.out))]


def _moved(ledger: Ledger, call: Call, field: Tensor) -> Any:
    if call.name in ("view", "_unsafe_view", "reshape"):
        out = lean(field.reshape(call.out.shape))
        # a dimension of units that is split, as into heads: what is inside one innermost part stays together
        if len(varying(out)) > max(1, len(varying(field))):
            out = ledger.merge(out, varying(out)[-1])
        return out
    if call.name in _SAME:
        return field
    if call.name == "as_strided_":  # a pooling's way to say which memory format its result has
        if call.out.shape != field.shape:
            ledger.fix([field], FIXED)
        return field
    return call.run(field, *call.args[1:], **call.kwargs)


def _repeated(call: Call) -> list[int]:
    """The dimensions along which an `expand` repeats the one position there is, the batch excepted."""
    if call.name != "expand":
        return []
    x, out = call.args[0], call.out
    new = out.ndim - x.ndim
    return [d for d in range(max(1, new), out.ndim) if x.shape[d - new] == 1 < out.shape[d]]


def contracted(ledger: Ledger, call: Call) -> Fields:
    """Sums over one dimension: what is summed together goes together; each side's other dimension goes on."""
    args = call.args
    bias, a, b = (args[0], *args[1:3]) if call.name in ("addmm", "baddbmm", "addmv") else (None, *args[:2])
    if call.name == "linear":
        bias = call.arg(2, "bias")
    out = product(ledger, call, a, b, turned=call.name == "linear")
    if bias is None:
        return out
    return combined(ledger, [(call.out, out), (bias, call.fields(bias))], call.out.shape)


def product(ledger: Ledger, call: Call, a: Tensor, b: Tensor, turned: bool = False) -> Fields:
    """Fields of a @ b, [..., n, k] by [..., k, m] (`turned`: by [m, k])."""
    left, right = call.fields(a), call.fields(b)
    if turned:
        right = [f.transpose(-1, -2) for f in right]
    if b.ndim == 1:
        left, right = left, [f[:, None] for f in right]
    lk, rk = _along(left, -1), _along(right, -2)
    if call.weight(b):
        ledger.read += [core(f).reshape(-1) for f in rk]
    if call.weight(a):
        ledger.read += [core(f).reshape(-1) for f in lk]
    for f in lk:
        for g in rk:
            f1, g1 = _only(ledger, f, -1), _only(ledger, g, -2)
            ledger.join(f1.narrow(-2, 0, 1).transpose(-1, -2), g1.narrow(-1, 0, 1))
    if not rk:
        for f in lk:
            ledger.merge(_only(ledger, f, -1), f.ndim - 1, FIXED)
    if not lk:
        for f in rk:
            ledger.merge(_only(ledger, f, -2), f.ndim - 2, FIXED)
    shape = call.out.shape if b.ndim > 1 else torch.Size([*call.out.shape, 1])
    out = [_summed(ledger, f, -1).expand(shape) for f in left]
    other = [_summed(ledger, f, -2).expand(shape) for f in right]
    if _batch(out, other):
        whole = call.out.reshape(shape)
        found = combined(ledger, [(whole, out), (whole, other)], shape)
    else:
        found = [f for f in (*out, *other) if varying(f)]
    return found if b.ndim > 1 else [f[..., 0] for f in found]


def _batch(out: Fields, other: Fields) -> bool:
    """Whether both sides, or one, label a dimension that is neither's own."""
    return any(set(varying(f)) & set(range(f.ndim - 2)) for f in (*out, *other))


def _along(fields: Fields, dim: int) -> Fields:
    return [f for f in fields if f.ndim + dim in varying(f)]


def _only(ledger: Ledger, field: Tensor, dim: int) -> Tensor:
    """A field that differs along one of the last two dimensions only (batches excepted)."""
    other = field.ndim - 3 - dim  # the other one of the last two
    return ledger.merge(field, other) if other in varying(field) else field


def _summed(ledger: Ledger, field: Tensor, dim: int) -> Tensor:
    if field.ndim + dim in varying(field):
        if len(varying(field)) == 1:
            return field.narrow(dim, 0, 1).new_zeros(1).expand([1] * field.ndim)
        field = ledger.merge(field, field.ndim + dim)
    return field.narrow(dim, 0, 1)


def for_ever(ledger: Ledger, like: Tensor, dim: int, n: int) -> Tensor:
    """Labels of positions that no layer makes."""
    shape = list(like.shape)
    shape[dim] = n
    made = ledger.fresh(n)
    if n:
        ledger.pinned.append(made)
    return made.view([-1 if d == dim else 1 for d in range(like.ndim)]).expand(shape)


def stacked(ledger: Ledger, call: Call) -> Fields:
    """Tensors beside each other along a new dimension; across the others their units are the same."""
    given, at = call.args[0], call.arg(1, "dim", 0) % call.out.ndim
    fields = combined(ledger, [(t, call.fields(t)) for t in given], given[0].shape)
    return [f.unsqueeze(at).expand(call.out.shape) for f in fields]


def joined(ledger: Ledger, call: Call) -> Fields:
    """Tensors end to end along a dimension; across the others their units are the same."""
    dim = call.arg(1, "dim", 0) % call.out.ndim
    given = [t for t in call.args[0] if t.ndim == call.out.ndim]
    flat = [
        (t.narrow(dim, 0, 1), [f.narrow(dim, 0, 1) for f in call.fields(t) if dim not in varying(f)])
        for t in given
    ]
    across = combined(ledger, flat, flat[0][0].shape)
    found = [f.expand(call.out.shape) for f in across]
    along = [[f for f in call.fields(t) if dim in varying(f)] for t in given]
    if any(along):
        parts = []
        for t, fields in zip(given, along, strict=True):
            if not fields:
                parts.append(for_ever(ledger, t, dim, t.shape[dim]))
                continue
            field = fields[0]
            for d in varying(field):
                if d != dim:
                    field = ledger.merge(field, d, FIXED)
            parts.append(field)
        found.append(torch.cat(parts, dim))
    return found


def reduced(ledger: Ledger, call: Call) -> Any:
    """Sums, means and the like over dimensions; a mean over units counts those that are zero."""
    first = call.out if isinstance(call.out, Tensor) else call.out[0]
    x = call.args[0]
    given = call.arg(1, "dim")
    if call.name in ("linalg_vector_norm", "norm"):
        given = call.arg(2, "dim")
    dims = [given] if isinstance(given, int) else list(given or range(x.ndim))
    dims = [d % x.ndim for d in dims] if x.ndim else []
    keeps = first.ndim == x.ndim
    fields = []
    for f in call.fields(x):
        for d in dims:
            if d not in varying(f):
                f = f.narrow(d, 0, 1)
                continue
            if call.name in ("mean", "var", "std", "var_mean"):
                ledger.counted.append(core(f).reshape(-1))
            elif call.name not in ("sum", "linalg_vector_norm", "norm"):
                ledger.fix([f], f"{call.name} runs over them")
            f = ledger.merge(f, d) if len(varying(f)) > 1 else f
            f = f.narrow(d, 0, 1)
        if not keeps:
            for d in sorted(dims, reverse=True):
                f = f.squeeze(d)
        f = f.expand(first.shape)
        if varying(f):
            fields.append(f)
    return fields if isinstance(call.out, Tensor) else [fields for _ in call.out]


def over(ledger: Ledger, call: Call) -> Any:
    """One dimension is normalised, ordered or summed up step by step: all of it must stay."""
    dim = call.arg(2 if call.name == "topk" else 1, "dim", -1)
    first = call.out if isinstance(call.out, Tensor) else call.out[0]
    fields = []
    for f in call.fields(call.args[0]):
        if dim % f.ndim in varying(f):
            f = ledger.merge(f, dim % f.ndim, f"{call.name.strip('_')} runs over them")
        if varying(f):
            fields.append(f.narrow(dim, 0, 1).expand(first.shape))
    return fields if isinstance(call.out, Tensor) else [fields for _ in call.out]


def unlabelled(ledger: Ledger, call: Call) -> Fields:
    """A new tensor that only takes the type of another."""
    return []
