"""What each operation of torch says about the units of what it reads and gives.

A rule gets the ledger, the call, and the fields of its tensors; it returns the fields of the result. Operations without
a rule keep all units that reach them whole, so that a model is never cut wrongly for what is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    if isinstance(call.out, Tensor):
        return parts
    return [[part[i] for part in parts] for i in range(len(call.out))]


def _moved(ledger: Ledger, call: Call, field: Tensor) -> Any:
    if call.name in ("view", "_unsafe_view", "reshape"):
        out = lean(field.reshape(call.out.shape))
        # a dimension of units that is split, as into heads: what is inside one part stays together
        while len(varying(out)) > max(1, len(varying(field))):
            out = ledger.merge(out, varying(out)[-1])
        return out
    if call.name in _SAME:
        return field
    if call.name == "as_strided_":  # a pooling's way to say which memory format its result has
        if call.out.shape != field.shape:
            ledger.fix([field], FIXED)
        return field
    return call.run(field, *call.args[1:], **call.kwargs)


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
        ledger.fix([_only(ledger, f, -1) for f in lk], FIXED)
    if not lk:
        ledger.fix([_only(ledger, f, -2) for f in rk], FIXED)
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


def grouped_product(ledger: Ledger, call: Call) -> Fields:
    """Rows [n, k] each by one of several matrices [e, k, m]: which matrix is no unit."""
    a, b = call.args[:2]
    right = []
    for f in call.fields(b):
        if 0 in varying(f):
            f = ledger.merge(f, 0, "they are experts, of which the router chooses")
        right.append(f[0])
    first = b[0]
    one = replace(
        call,
        fields=lambda t: right if t is first else call.fields(t),
        weight=lambda t: call.weight(b if t is first else t),
    )
    return product(ledger, one, a, first)


def convolved(ledger: Ledger, call: Call) -> Fields:
    """Channels in by the weight's, channels out from its rows; with one filter a channel both are one."""
    x, w, bias = call.args[:3]
    transposed, groups = call.args[6], call.args[8]
    xs, ws = call.fields(x), call.fields(w)
    reads, makes = (0, 1) if transposed else (1, 0)
    for f in xs:
        ledger.fix([_drop(f, 1)], "they lie along the image, not across its channels")
    ledger.fix([f for f in ws if set(varying(f)) - {0, 1}], "they lie along the kernel, not across its channels")
    inner = [_flat(f, 1) for f in xs if 1 in varying(f)]
    rows = [_flat(f, makes) for f in ws if makes in varying(f)]
    columns = [_flat(f, reads) for f in ws if reads in varying(f)]
    if groups == 1:
        ledger.read += columns
        for c in columns:
            if not inner:
                ledger.fix([c], FIXED)
            for f in inner:
                ledger.join(f, c)
        if not columns:
            ledger.fix(inner, FIXED)
    elif groups == x.shape[1] and not transposed and w.shape[0] == groups:
        for r in rows:
            if not inner:
                ledger.fix([r], FIXED)
            for f in inner:
                ledger.join(f, r)
    else:
        ledger.fix([*inner, *columns, *rows], "they run through a grouped convolution")
    shape = call.out.shape
    out = [r.view(1, -1, *[1] * (len(shape) - 2)).expand(shape) for r in rows if len(r) == shape[1]]
    if bias is not None:
        for f in call.fields(bias):
            for r in rows:
                ledger.join(f, r) if len(r) == len(f) else ledger.fix([f, r], FIXED)
    return out


def _flat(field: Tensor, dim: int) -> Tensor:
    """Labels along one dimension, [n]."""
    for d in range(field.ndim - 1, -1, -1):
        if d != dim:
            field = field.select(d, 0)
    return field


def _drop(field: Tensor, dim: int) -> Tensor:
    return field.select(dim, 0)


def spatial(ledger: Ledger, call: Call) -> Any:
    """The last dimensions change their sizes, by pooling, padding or sampling; the channels stay."""
    first = call.out if isinstance(call.out, Tensor) else call.out[0]
    fields = []
    for f in call.fields(call.args[0]):
        same = [d for d in range(f.ndim) if f.shape[d] == first.shape[d]]
        for d in varying(f):
            if d not in same or d > 1:
                f = ledger.merge(f, d, "they lie along the image, not across its channels")
        for d in range(f.ndim):
            if d not in same:
                f = f.narrow(d, 0, 1)
        if varying(f):
            fields.append(f.expand(first.shape))
    return fields if isinstance(call.out, Tensor) else [fields for _ in call.out]


def padded(ledger: Ledger, call: Call) -> Fields:
    """New positions beside the old: across units they stay for ever, elsewhere they change nothing."""
    x, widths = call.args[0], call.args[1]
    fields = []
    for f in call.fields(x):
        for k in range(len(widths) // 2):
            dim, (low, high) = f.ndim - 1 - k, widths[2 * k : 2 * k + 2]
            if dim not in varying(f):
                shape = list(f.shape)
                shape[dim] += low + high
                f = f.narrow(dim, 0, 1).expand(shape)
            elif low >= 0 and high >= 0:
                ends = [_ever(ledger, f, dim, n) for n in (low, high)]
                f = torch.cat([ends[0], f, ends[1]], dim)
            else:
                f = f.narrow(dim, max(0, -low), f.shape[dim] + min(0, low) + min(0, high))
        fields.append(lean(f))
    return fields


def _ever(ledger: Ledger, like: Tensor, dim: int, n: int) -> Tensor:
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
                parts.append(_ever(ledger, t, dim, t.shape[dim]))
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


def halved(ledger: Ledger, call: Call) -> Fields:
    """GLU: the first half times a function of the second."""
    x, dim = call.args[0], call.arg(1, "dim", -1)
    half = x.shape[dim] // 2
    parts = [
        (call.out, [lean(f.narrow(dim, at, half)) for f in call.fields(x)]) for at in (0, half)
    ]
    return combined(ledger, parts, call.out.shape)


def layer_norm(ledger: Ledger, call: Call) -> Any:
    """Normalisation over the last dimensions: its scale and shift go with the units, which its statistics count."""
    x, shape = call.args[0], call.args[1]
    first = call.out if isinstance(call.out, Tensor) else call.out[0]
    for f in call.fields(x):
        if set(varying(f)) & set(range(x.ndim - len(shape), x.ndim)):
            ledger.counted.append(core(f).reshape(-1))
    own = [t for t in call.args[2:4] if isinstance(t, Tensor)]
    fields = combined(ledger, [(t, call.fields(t)) for t in (x, *own)], first.shape)
    return fields if isinstance(call.out, Tensor) else [fields, *([] for _ in call.out[1:])]


def batch_norm(ledger: Ledger, call: Call) -> Any:
    """Normalisation of each channel by itself."""
    x, first = call.args[0], call.out[0] if isinstance(call.out, tuple | list) else call.out
    own = [t for t in call.args[1:5] if isinstance(t, Tensor)]
    tall = [(t.view(-1, *[1] * (x.ndim - 2)), [f.view(-1, *[1] * (x.ndim - 2)) for f in call.fields(t)]) for t in own]  # fmt: skip
    fields = combined(ledger, [(x, call.fields(x)), *tall], first.shape)
    return fields if isinstance(call.out, Tensor) else [fields, *([] for _ in call.out[1:])]


def looked_up(ledger: Ledger, call: Call) -> Fields:
    """Rows chosen by numbers: which there are must stay."""
    if call.name == "embedding":
        table, at = call.args[0], (call.args[1],)
        shape = call.out.shape
        found = []
        for f in call.fields(table):
            if 0 in varying(f):
                ledger.fix([f], "they are rows that are looked up by number")
            else:
                ledger.made.append(core(f).reshape(-1))
                found.append(f[0].expand(shape))
        return found
    x = call.args[0]
    if call.name == "index":
        dims = [d for d, i in enumerate(call.args[1]) if i is not None]
        if any(call.args[1][d].dtype == torch.bool for d in dims):
            width = sum(call.args[1][d].ndim for d in dims)
            dims = list(range(min(dims), min(dims) + width))
    else:
        dims = [call.args[1] % max(1, x.ndim)]
    found = []
    for f in call.fields(x):
        for d in dims:
            if d in varying(f):
                f = ledger.merge(f, d, "they are looked up by number")
        if varying(f):
            found.append(lean(call.run(f, *call.args[1:], **call.kwargs)))
    return found


def put(ledger: Ledger, call: Call) -> Fields:
    """Rows written into a tensor at given places."""
    x, dim, source = call.args[0], call.args[1], call.args[3]
    dim %= x.ndim
    for t in (x, source):
        for f in call.fields(t):
            if dim in varying(f):
                ledger.merge(f, dim, "they are written by number")
    sides = [
        (t.narrow(dim, 0, 1), [f.narrow(dim, 0, 1) for f in call.fields(t) if dim not in varying(f)])
        for t in (x, source)
        if t.shape[dim]
    ]
    return [f.expand(call.out.shape) for f in combined(ledger, sides, sides[0][0].shape)] if sides else []


def unlabelled(ledger: Ledger, call: Call) -> Fields:
    """A new tensor that only takes the type of another."""
    return []


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_table(moved, "view _unsafe_view reshape permute transpose t expand unsqueeze squeeze select slice unbind split "
             "split_with_sizes chunk unsafe_chunk unsafe_split clone detach alias contiguous _to_copy roll flip repeat "
             "narrow unfold diagonal lift_fresh zeros_like ones_like empty_like full_like rand_like randn_like bernoulli "
             "as_strided_ pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle _reshape_alias numpy_T mT"),
    **_table(contracted, "mm bmm addmm baddbmm mv addmv linear matmul"),
    **_table(grouped_product, "_grouped_mm"),
    **_table(convolved, "convolution _convolution"),
    **_table(spatial, "max_pool1d max_pool2d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
             "_adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d "
             "upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d "
             "_upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d reflection_pad1d reflection_pad2d "
             "replication_pad1d replication_pad2d"),
    **_table(padded, "constant_pad_nd"),
    **_table(joined, "cat"),
    **_table(stacked, "stack"),
    **_table(reduced, "mean sum amax amin max min var std var_mean argmax any all linalg_vector_norm norm prod logsumexp"),
    **_table(over, "_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod sort topk"),
    **_table(halved, "glu"),
    **_table(layer_norm, "native_layer_norm layer_norm rms_norm _fused_rms_norm"),
    **_table(batch_norm, "native_batch_norm _native_batch_norm_legit_no_training batch_norm _native_batch_norm_legit "
             "cudnn_batch_norm"),
    **_table(looked_up, "embedding index index_select gather"),
    **_table(unlabelled, "new_empty new_zeros new_ones new_full new_empty_strided"),
    **_table(pointwise, "copy_ _prelu_kernel"),
    **_table(put, "index_add index_add_ index_copy index_copy_"),
}  # fmt: skip
"""Operation -> its rule; operations that torch calls pointwise have `pointwise`."""
