"""Linear stacks of convolutions as one convolution, and one convolution as a trainable stack: exact both ways.

Bhardwaj, Milosavljevic, O'Neil et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution", MLSys 2022,
arXiv 2103.09404. A convolution to p channels and a 1x1 one after it are one convolution with

    W[o, i] = sum_p W2[o, p] W1[p, i],   b = W2 b1 + b2;   an identity skip adds 1 to W[c, c] at the centre.

Kernels of any size compose by full convolution. Zero padding commutes with what follows it only, so that a stack is
collapsed where its padding stands at one place, before which nothing adds a bias or looks sideways; else it is refused.
The authors' released code passes its impulse through biases, which is another parameterisation; here a bias is a bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Conv2d, Identity, Module, Sequential
from torch.nn.utils import parametrize

from ...errors import InputError
from ...settings import Count, checked


def collapse(stack: Module, *, skip: bool | Tensor = False) -> Conv2d:
    """One convolution that computes what a linear stack of convolutions does.

    Args:
        stack: a `Conv2d`, or a `Sequential` of them; left unchanged.
        skip: True adds the stack's input to its output; a matrix [out, in] adds that mix of the input's channels.

    Returns:
        The convolution, in the dtype and on the device of the stack; equal to it up to rounding, borders included.

    Raises:
        InputError: if a part is no plain convolution (an activation, a norm, groups, dilation), strides or pads where
            the result would differ, or a skip does not fit.
    """
    convs = list(_convs(stack))
    if not convs:
        raise InputError("collapse needs at least one convolution; got none.")
    pad, at = _padding(convs)
    kernel, bias = convs[0].weight.double(), _bias(convs[0])
    for conv in convs[1:]:
        after = conv.weight.double()
        bias = after.sum((2, 3)) @ bias + _bias(conv)
        reach = (after.shape[2] - 1, after.shape[3] - 1)
        kernel = F.conv2d(kernel.transpose(0, 1), after.flip(2, 3), padding=reach).transpose(0, 1)
    if skip is not False:
        kernel = kernel + _centre(kernel, skip, pad, convs[-1].stride)
    first = convs[0]
    whole = Conv2d(
        kernel.shape[1], kernel.shape[0], (kernel.shape[2], kernel.shape[3]), stride=_stride(convs), padding=pad,
        padding_mode=convs[at].padding_mode, bias=any(c.bias is not None for c in convs),
        device=first.weight.device, dtype=first.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        whole.weight.copy_(kernel)
        if whole.bias is not None:
            whole.bias.copy_(bias)
    return whole


def expand_(module: Module, width: int = 64, *, skip: bool = False) -> list[str]:
    """Give every convolution of a module a weight that is the product of a kernel to `width` channels and a 1x1 mix.

    The function stays as it is (the factors are solved for), and the forward pass stays one convolution: torch's
    `parametrize` makes the weight from the factors at every step. Training moves the factors.

    Args:
        module: changed in place.
        width: channels between the two, p; at least each convolution's output channels.
        skip: add the identity at the centre of kernels that have as many inputs as outputs and odd sides.

    Returns:
        Names of the convolutions that were expanded.

    Raises:
        InputError: if there is none, one has groups, is expanded already, or has more outputs than `width`.
    """
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, Conv2d)]
    if not found:
        raise InputError(f"expand_ found no Conv2d in {type(module).__name__}, so nothing would be expanded.")
    for name, conv in found:
        if conv.groups != 1 or parametrize.is_parametrized(conv, "weight") or conv.out_channels > width:
            why = (
                f"has {conv.groups} groups"
                if conv.groups != 1
                else f"has {conv.out_channels} outputs, more than the width {width}"
                if conv.out_channels > width
                else "is expanded already"
            )
            raise InputError(f"expand_: the convolution {name or 'given'} {why}, and cannot be expanded.")
    for _, conv in found:
        same = conv.in_channels == conv.out_channels and all(k % 2 for k in conv.kernel_size)
        parametrize.register_parametrization(conv, "weight", Factors(width, skip=skip and same), unsafe=True)
    return [name for name, _ in found]


def collapse_(module: Module) -> list[str]:
    """Undo `expand_`: leave the products as plain weights, in place. Returns the convolutions' names."""
    found = [
        name
        for name, part in module.named_modules()
        if isinstance(part, Conv2d) and parametrize.is_parametrized(part, "weight")
    ]
    for name in found:
        conv = module.get_submodule(name)
        conv.__class__ = _own_class(type(conv))
        parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)
    return found


class Factors(Module):
    """A parametrisation for `torch.nn.utils.parametrize`: weight = mix of a wide kernel, [+ identity].

    The product is taken in float32 also under autocast.

    Args:
        width: channels of the wide kernel.
        skip: add the identity at the centre.
    """

    @checked
    def __init__(self, width: Count, *, skip: bool = False) -> None:
        super().__init__()
        self.width, self.skip = width, skip

    def forward(self, kernel: Tensor, mix: Tensor) -> Tensor:
        """The weight [out, in, k, k] of a kernel [width, in, k, k] and a mix [out, width]."""
        with torch.autocast(kernel.device.type, enabled=False):
            wide = kernel if kernel.dtype == torch.float64 else kernel.float()
            weight = torch.einsum("op,pikl->oikl", mix.to(wide.dtype), wide).to(kernel.dtype)
        return weight + self._identity(weight) if self.skip else weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of a given weight: a drawn mix, and the kernel of least norm that gives the weight with it."""
        bare = weight - self._identity(weight) if self.skip else weight
        mix = torch.randn(len(weight), self.width, dtype=weight.dtype, device=weight.device) / self.width**0.5
        inverse = torch.linalg.pinv(mix.double()).to(weight.dtype)
        return torch.einsum("po,oikl->pikl", inverse, bare), mix

    def expanded(self, conv: Conv2d) -> Sequential:
        """The stack itself, wide convolution and 1x1, of a convolution that carries this; without the skip."""
        held: Any = conv.parametrizations
        kernel, mix = held.weight.original0, held.weight.original1
        like: dict[str, Any] = {"dtype": kernel.dtype, "device": kernel.device}
        how: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, **like}
        wide = Conv2d(conv.in_channels, self.width, kernel.shape[2:], bias=False, **how)
        last = Conv2d(self.width, conv.out_channels, 1, bias=conv.bias is not None, **like)
        with torch.no_grad():
            wide.weight.copy_(kernel)
            last.weight.copy_(mix[:, :, None, None])
            if conv.bias is not None and last.bias is not None:
                last.bias.copy_(conv.bias)
        return Sequential(wide, last)

    @staticmethod
    def _identity(weight: Tensor) -> Tensor:
        return _centre(weight, True, (weight.shape[2] // 2, weight.shape[3] // 2), (1, 1))


def _own_class(shared: type[Module]) -> type[Module]:
    """A class like that of a parametrised module: a deep copy shares it, and torch deletes the property from it."""
    kept = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    return type(shared.__name__, shared.__bases__, kept)


def _convs(stack: Module) -> Iterator[Conv2d]:
    if isinstance(stack, Sequential):
        for part in stack:
            yield from _convs(part)
    elif isinstance(stack, Conv2d):
        if stack.groups != 1 or stack.dilation != (1, 1):
            raise InputError(
                f"collapse takes convolutions without groups and dilation; got {stack}. Keep that one outside."
            )
        yield stack
    elif not isinstance(stack, Identity):
        raise InputError(
            f"collapse takes convolutions with nothing between them; got a {type(stack).__name__}. Fold batch "
            "normalisation into its convolution first (torch.nn.utils.fuse_conv_bn_eval); an activation cannot be "
            "collapsed."
        )


def _pads(conv: Conv2d) -> tuple[int, int]:
    if conv.padding == "same":
        if not all(k % 2 for k in conv.kernel_size):
            raise InputError(f"collapse: padding 'same' of an even kernel is uneven; got {conv}.")
        return conv.kernel_size[0] // 2, conv.kernel_size[1] // 2
    return (0, 0) if conv.padding == "valid" else conv.padding  # type: ignore[return-value]


def _padding(convs: list[Conv2d]) -> tuple[tuple[int, int], int]:
    """Where and how much the whole pads."""
    padded = [i for i, conv in enumerate(convs) if _pads(conv) != (0, 0)]
    if not padded:
        return (0, 0), 0
    if len(padded) > 1:
        raise InputError(
            f"collapse: {len(padded)} convolutions of the stack pad, and the borders between them would differ. Pad "
            "once, before the first."
        )
    at = padded[0]
    for conv in convs[:at]:
        if conv.kernel_size != (1, 1) or conv.bias is not None:
            what = "has a bias" if conv.bias is not None else f"has a kernel of {conv.kernel_size}"
            raise InputError(
                f"collapse: a convolution before the padded one {what}, so the border cannot be collapsed exactly. Pad "
                "at the first convolution, or leave the bias out."
            )
    return _pads(convs[at]), at


def _stride(convs: list[Conv2d]) -> tuple[int, int]:
    """The whole's stride; kernels after a stride must be 1x1, without a stride of their own."""
    at = next((i for i, conv in enumerate(convs) if conv.stride != (1, 1)), None)
    if at is None:
        return 1, 1
    if any(c.kernel_size != (1, 1) or c.stride != (1, 1) for c in convs[at + 1 :]):
        raise InputError(
            "collapse: a stride in the middle of the stack cannot be collapsed; only 1x1 may follow it."
        )
    return convs[at].stride  # type: ignore[return-value]


def _bias(conv: Conv2d) -> Tensor:
    return torch.zeros_like(conv.weight[:, 0, 0, 0]).double() if conv.bias is None else conv.bias.double()


def _centre(kernel: Tensor, skip: bool | Tensor, pad: tuple[int, int], stride: tuple[int, ...]) -> Tensor:
    """The kernel of a skip: a matrix at the centre tap."""
    out, into, high, wide = kernel.shape
    if not (high % 2 and wide % 2) or pad != (high // 2, wide // 2) or stride != (1, 1):
        raise InputError(
            f"collapse: a skip needs an odd kernel that keeps the size; got {high}x{wide} with padding {pad}, stride "
            f"{stride}."
        )
    if isinstance(skip, Tensor):
        mix = skip.to(kernel)
    elif out == into:
        mix = torch.eye(out, dtype=kernel.dtype, device=kernel.device)
    else:
        raise InputError(f"collapse: an identity skip needs as many outputs as inputs; got {into} -> {out}.")
    if mix.shape != (out, into):
        raise InputError(f"collapse: the skip must be a matrix [{out}, {into}]; got {tuple(mix.shape)}.")
    return F.pad(mix[:, :, None, None], (wide // 2, wide // 2, high // 2, high // 2))
