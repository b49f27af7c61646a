"""SESR: collapses that are exact, factors that are what they stand for, and the network around them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.nn import BatchNorm2d, Conv2d, ReLU, Sequential
from torch.utils.data import TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.random import global_seed
from unweave.restore import SESR, Factors, SESRNet, collapse, collapse_, expand_, warm_start_
from unweave.tasks import Classify, Restore


def convs(*shapes: tuple[int, int, int, int], bias: bool = True, seed: int = 0) -> Sequential:
    """(in, out, kernel, padding) each, in float64."""
    with global_seed(seed):
        return Sequential(
            *(Conv2d(i, o, k, padding=p, bias=bias) for i, o, k, p in shapes)
        ).double()  # fmt: skip


def impulse(stack: Sequential, into: int, size: int) -> torch.Tensor:
    """The kernel of a bias-free 'valid' stack by the card's other way: feed it impulses, flip, swap."""
    fed = F.pad(torch.eye(into, dtype=torch.float64)[:, :, None, None], (size - 1,) * 4)
    x = fed
    for conv in stack:
        x = F.conv2d(x, conv.weight)
    return x.flip(2, 3).transpose(0, 1)


@pytest.mark.parametrize(
    ("shapes", "bias"),
    [
        ([(2, 7, 3, 1), (7, 3, 1, 0)], True),
        ([(2, 7, 5, 2), (7, 3, 1, 0)], False),
        ([(2, 5, 3, 1), (5, 6, 1, 0), (6, 4, 1, 0)], True),
        ([(2, 5, 3, 3), (5, 4, 3, 0), (4, 3, 5, 0)], True),
        ([(3, 4, 4, 0), (4, 2, 2, 0)], True),
    ],
)
def test_a_stack_is_one_convolution_borders_included(shapes, bias) -> None:
    stack = convs(*shapes, bias=bias)
    x = torch.randn(2, shapes[0][0], 11, 9, dtype=torch.float64, generator=seeded(1), requires_grad=True)
    one = collapse(stack)
    assert isinstance(one, Conv2d)
    assert (one.bias is not None) == bias
    torch.testing.assert_close(one(x), stack(x), atol=1e-12, rtol=0)
    slopes = [torch.autograd.grad((f(x) ** 2).sum(), x)[0] for f in (one, stack)]
    torch.testing.assert_close(*slopes, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(
        one.weight, impulse(stack, shapes[0][0], one.weight.shape[2]), atol=1e-12, rtol=0
    )


def test_a_1x1_before_the_padded_one_needs_no_bias() -> None:
    stack = Sequential(
        *convs((3, 4, 1, 0), bias=False), *convs((4, 5, 3, 1), (5, 2, 1, 0), seed=1)
    )  # fmt: skip
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(collapse(stack)(x), stack(x), atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="before the padded one has a bias"):
        collapse(convs((3, 4, 1, 0), (4, 5, 3, 1)))


@pytest.mark.parametrize("kind", ["identity", "matrix"])
def test_a_skip_is_added_at_the_centre(kind) -> None:
    stack = convs((3, 8, 3, 1), (8, 3, 1, 0))
    mix = (
        torch.eye(3, dtype=torch.float64)
        if kind == "identity"
        else torch.randn(3, 3, generator=seeded(2)).double()
    )
    x = torch.randn(1, 3, 7, 7, dtype=torch.float64, generator=seeded(1))
    one = collapse(stack, skip=True if kind == "identity" else mix)
    torch.testing.assert_close(one(x), stack(x) + torch.einsum("oi,nihw->nohw", mix, x), atol=1e-12, rtol=0)


def test_a_stride_at_the_end_stays_and_single_precision_is_within_1e5() -> None:
    stack = Sequential(Conv2d(2, 9, 3, padding=1), Conv2d(9, 4, 1, stride=2))
    x = torch.randn(1, 2, 8, 8, generator=seeded(1))
    one = collapse(stack)
    assert one.stride == (2, 2)
    torch.testing.assert_close(one(x), stack(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("stack", "skip", "message"),
    [
        (Sequential(Conv2d(1, 2, 3), ReLU()), False, "nothing between them; got a ReLU"),
        (Sequential(Conv2d(1, 2, 3), BatchNorm2d(2)), False, "Fold batch normalisation"),
        (Conv2d(2, 2, 3, groups=2), False, "without groups"),
        (Conv2d(2, 2, 3, dilation=2), False, "dilation"),
        (Sequential(Conv2d(1, 2, 3, padding=1), Conv2d(2, 1, 3, padding=1)), False, "2 convolutions of the stack pad"),
        (Sequential(Conv2d(1, 2, 3, stride=2), Conv2d(2, 1, 3)), False, "stride in the middle"),
        (Sequential(Conv2d(1, 2, 3), Conv2d(2, 1, 3, padding=1)), False, "has a (bias|kernel)"),
        (Conv2d(2, 2, 4, padding=2), True, "odd kernel that keeps the size"),
        (Conv2d(2, 2, 3), True, "odd kernel that keeps the size"),
        (Conv2d(2, 3, 3, padding=1), True, "as many outputs as inputs; got 2 -> 3"),
        (Conv2d(2, 3, 3, padding=1), torch.eye(2), r"matrix \[3, 2\]"),
        (Sequential(), False, "at least one convolution"),
    ],
)  # fmt: skip
def test_what_cannot_be_collapsed_is_refused(stack, skip, message) -> None:
    with pytest.raises(InputError, match=message):
        collapse(stack, skip=skip)


def test_expanding_keeps_the_function_and_collapsing_gives_it_back() -> None:
    with global_seed(0):
        net = Sequential(Conv2d(2, 4, 3, padding=1, stride=2), ReLU(), Conv2d(4, 4, 3, padding=1))
        x = torch.randn(1, 2, 8, 8)
        before = net(x)
        assert expand_(net, 16, skip=True) == ["0", "2"]
    torch.testing.assert_close(net(x), before, atol=1e-5, rtol=1e-5)
    copied = copy.deepcopy(net)
    assert collapse_(copied) == ["0", "2"]
    torch.testing.assert_close(copied(x), before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(net(x), before, atol=1e-5, rtol=1e-5)  # the original is still expanded
    assert {n for n, _ in copied.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_gradients_through_the_product_are_those_of_the_expanded_stack() -> None:
    with global_seed(0):
        conv = Conv2d(3, 3, 3, padding=1).double()
        expand_(conv, 8, skip=True)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=seeded(1))
    factors: Factors = conv.parametrizations.weight[0]
    stack = factors.expanded(conv)
    torch.testing.assert_close(stack(x) + x, conv(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(collapse(stack, skip=True).weight, conv.weight, atol=1e-12, rtol=0)
    conv(x).square().sum().backward()
    (stack(x) + x).square().sum().backward()
    held = conv.parametrizations.weight
    torch.testing.assert_close(held.original0.grad, stack[0].weight.grad, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(held.original1.grad, stack[1].weight.grad[:, :, 0, 0], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ReLU(), "found no Conv2d"),
        (Conv2d(2, 2, 3, groups=2), "has 2 groups"),
        (Conv2d(2, 20, 3), "has 20 outputs, more than the width 8"),
    ],
)
def test_what_cannot_be_expanded_is_refused(net, message) -> None:
    with pytest.raises(InputError, match=message):
        expand_(net, 8)
    conv = Conv2d(2, 2, 3)
    expand_(conv, 8)
    with pytest.raises(InputError, match="expanded already"):
        expand_(conv, 8)


def by_hand(net: SESRNet, x: torch.Tensor) -> torch.Tensor:
    """The plain network's answer, from its weights, one pixel of the shuffle at a time."""
    f = F.conv2d(x - 0.5, net.head.weight, net.head.bias, padding=2)
    h = f
    for conv, act in net.body:
        h = F.conv2d(h, conv.weight, conv.bias, padding=1)
        h = torch.where(h > 0, h, act.weight.view(1, -1, 1, 1) * h)
    d = F.conv2d(h + f, net.tail.weight, net.tail.bias, padding=2) + x
    large = torch.zeros(len(x), 1, 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    for a in (0, 1):
        for b in (0, 1):
            large[:, 0, a::2, b::2] = d[:, 2 * a + b]
    return large


def test_the_network_is_the_papers_chain_and_clips_in_eval_alone() -> None:
    net = SESR(features=4, blocks=2, width=8).initial(seeded(0)).double()
    plain = net.collapsed()
    x = torch.rand(2, 1, 6, 5, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(net(x), plain(x), atol=1e-12, rtol=0)
    wanted = by_hand(plain, x)
    torch.testing.assert_close(plain.train()(x), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(plain.restore(x), wanted.clamp(0, 1), atol=1e-12, rtol=0)
    assert not any("parametrizations" in name for name in plain.state_dict())


@pytest.mark.parametrize(("scale", "channels"), [(2, 3), (4, 1), (4, 3)])
def test_at_any_scale_zero_detail_repeats_the_input(scale, channels) -> None:
    net = SESRNet(scale=scale, blocks=1, features=4, width=0, channels=channels)
    torch.nn.init.zeros_(net.tail.weight)
    x = torch.rand(1, channels, 3, 4, generator=seeded(0))
    want = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(net(x), want)


@pytest.mark.parametrize(
    ("blocks", "features", "scale", "thousand", "gmacs"),
    [(3, 16, 2, 8.9, 2.05), (5, 16, 2, 13.5, 3.12), (11, 16, 2, 27.3, 6.30), (11, 32, 2, 105.4, 24.28), (5, 16, 4, None, 1.06)],
)  # fmt: skip
def test_sizes_are_the_papers(blocks, features, scale, thousand, gmacs) -> None:
    net = SESRNet(scale=scale, blocks=blocks, features=features, width=0)
    kernels = sum(m.weight.numel() for m in net.modules() if isinstance(m, Conv2d))
    if thousand:
        assert round(kernels / 1000, 1) == thousand
    assert kernels * (1280 // scale) * (720 // scale) / 1e9 == pytest.approx(gmacs, abs=0.011)


@pytest.fixture(scope="module")
def pairs() -> Data[Restore]:
    x = torch.linspace(0, 3, 16)
    waves = torch.stack(
        [(torch.sin(k * x)[:, None] * torch.cos(k * x + k)[None]) / 2 + 0.5 for k in range(1, 9)]
    )[:, None]
    return Data(TensorDataset(F.avg_pool2d(waves, 2), waves), Restore(), 4)


def test_training_helps_and_x4_begins_with_the_layers_of_x2(pairs) -> None:
    method = SESR(features=4, blocks=1, width=8, lr=5e-3, epochs=25)
    net = method.build(pairs, rng=seeded(0))
    assert not net.training
    assert pairs.task.measure(net, pairs) > pairs.task.measure(method.initial(seeded(0)).eval(), pairs) + 3
    nearest = torch.nn.Upsample(scale_factor=2)
    assert pairs.task.measure(net, pairs) > pairs.task.measure(nearest, pairs)
    larger = SESRNet(scale=4, features=4, blocks=1, width=16)
    with pytest.raises(InputError, match="another make"):
        warm_start_(larger, net)
    wide = SESRNet(scale=2, features=4, blocks=1, width=16)
    names = warm_start_(larger, wide)
    assert names == tuple(n for n in wide.state_dict() if not n.startswith("tail."))
    assert len(names) == 7
    assert all(torch.equal(larger.state_dict()[n], wide.state_dict()[n]) for n in names)


def test_bad_input_is_named(pairs) -> None:
    net = SESRNet(features=4, blocks=1, width=0)
    with pytest.raises(InputError, match=r"reads 1 channel; got 3. Give its luma \(Y\) alone"):
        net(torch.rand(1, 3, 4, 4))
    with pytest.raises(InputError, match="floating-point pictures"):
        net(torch.ones(1, 1, 4, 4, dtype=torch.uint8))
    with pytest.raises(InputError, match="NaN"):
        net.restore(torch.full((1, 1, 4, 4), torch.nan))
    with pytest.raises(InputError, match="SESR has scale 4"):
        SESR(scale=4, width=16).build(pairs, rng=seeded(0))
    with pytest.raises(InputError, match=r"width must be 0 or at least .*16"):
        SESR(width=8)
    with pytest.raises(InputError, match="needs a task that is Restoring"):
        SESR().build(Data(pairs.examples, Classify(2)), rng=seeded(0))
