"""What layers say about the units they read and give: convolutions, norms, pooling, tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .labels import Fields, Ledger, core, lean, varying
from .rules import FIXED, Call, combined, for_ever, product


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
    ledger.fix(
        [f for f in ws if set(varying(f)) - {0, 1}], "they lie along the kernel, not across its channels"
    )
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
    """New positions beside the old, or old ones cut off; across units new ones stay for ever."""
    x, widths = call.args[0], call.args[1]
    fields = []
    for f in call.fields(x):
        for k in range(len(widths) // 2):
            dim, (low, high) = f.ndim - 1 - k, widths[2 * k : 2 * k + 2]
            if dim not in varying(f):
                shape = list(f.shape)
                shape[dim] += low + high
                f = f.narrow(dim, 0, 1).expand(shape)
            else:
                f = f.narrow(dim, max(0, -low), f.shape[dim] + min(0, low) + min(0, high))
                before, after = (for_ever(ledger, f, dim, max(0, n)) for n in (low, high))
                f = torch.cat([before, f, after], dim)
        fields.append(lean(f))
    return fields


def halved(ledger: Ledger, call: Call) -> Fields:
    """GLU: the first half times a function of the second."""
    x, dim = call.args[0], call.arg(1, "dim", -1)
    half = x.shape[dim] // 2
    parts = [(call.out, [lean(f.narrow(dim, at, half)) for f in call.fields(x)]) for at in (0, half)]
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
    high = [-1, *[1] * (x.ndim - 2)]
    tall = [(t.view(high), [f.view(high) for f in call.fields(t)]) for t in own]
    fields = combined(ledger, [(x, call.fields(x)), *tall], first.shape)
    return fields if isinstance(call.out, Tensor) else [fields, *([] for _ in call.out[1:])]


def looked_up(ledger: Ledger, call: Call) -> Fields:
    """Rows chosen by numbers: which there are must stay."""
    if call.name == "embedding":
        table = call.args[0]
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
