from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from unweave import seeded
from unweave.errors import InputError
from unweave.fit import fit_
from unweave.language import S4D, S4DClassifier, at_rate, fixed, s4d_groups
from unweave.language.s4d.s4d import first_poles
from unweave.random import global_seed


def layer(*, width: int = 3, states: int = 8, **settings: Any) -> S4D:
    with global_seed(0):
        return S4D(width, states=states, **settings).double().eval()


def signals(length: int, width: int = 3, n: int = 2) -> Tensor:
    return torch.randn(n, width, length, generator=seeded(1), dtype=torch.float64)


def naive(made: S4D, u: Tensor) -> Tensor:
    """The discrete recurrence of both conjugates, from the stored parameters, step by step in numpy."""
    out = []
    for way in range(len(made.c)):
        x = u.flip(-1) if way else u
        a = -np.exp(made.a_real.detach().numpy()) + 1j * made.a_imag.detach().numpy()
        a = np.repeat(a, made.width // len(a), 0)
        dt = np.exp(made.log_dt.detach().numpy())[:, None] * made.rate
        b = 1.0 if made.b is None else made.b.detach().numpy() @ np.array([1, 1j])
        c = made.c[way].detach().numpy() @ np.array([1, 1j])
        if made.disc == "zoh":
            bar, into = np.exp(dt * a), (np.exp(dt * a) - 1) / a * b
        else:
            bar, into = (1 + dt * a / 2) / (1 - dt * a / 2), dt / (1 - dt * a / 2) * b
        state, rows = np.zeros((len(u), *a.shape), complex), []
        for k in range(u.shape[-1]):
            state = bar * state + into * x[..., k, None].numpy()
            rows.append((c * state + np.conj(c * state)).sum(-1).real)
        y = torch.from_numpy(np.stack(rows, -1)).flip(-1) if way else torch.from_numpy(np.stack(rows, -1))
        out.append(y + made.d[way].detach()[:, None] * u)
    return torch.cat(out, 1)


@pytest.mark.parametrize("init", ["lin", "inv", "legs", "real", "random"])
@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
def test_convolution_chunks_and_recurrence_agree_with_the_equations(init: Any, disc: Any) -> None:
    u = signals(50)
    made = layer(init=init, disc=disc, poles=1, train_b=True, mode="chunked", chunk=20)
    with torch.no_grad():
        made.b.add_(0.3)
    wanted = naive(made, u)
    for mode in ("conv", "chunked", "recurrent"):
        made.mode = mode
        assert float((made.convolve(u) - wanted).detach().abs().max()) < 1e-10, mode
    state, read = made.start(2), []
    for k in range(50):
        y, state = made.step(u[..., k], state)
        read.append(y)
    torch.testing.assert_close(torch.stack(read, -1), made(u), rtol=0, atol=1e-10)


def test_long_float32_kernels_agree_with_the_recurrence() -> None:
    made = layer(width=2, states=64, init="legs").float()
    u = signals(512, 2).float()
    whole = made.convolve(u)
    made.mode = "recurrent"
    torch.testing.assert_close(made.convolve(u), whole, rtol=0, atol=1e-4)


def test_both_directions() -> None:
    made, u = layer(bidirectional=True), signals(40)
    torch.testing.assert_close(made.convolve(u), naive(made, u), rtol=0, atol=1e-10)
    assert made(u).shape == u.shape
    later = u.clone()
    later[..., -1] += 1
    assert not torch.allclose(made(later)[..., 0], made(u)[..., 0], atol=1e-3)
    forward = layer()
    torch.testing.assert_close(forward(later)[..., :-1], forward(u)[..., :-1], rtol=0, atol=1e-12)  # causal


def test_kernel_is_scipys_impulse_response() -> None:
    made = layer(width=1, states=4)
    a, c = made.poles()[0].detach().numpy(), made.readout()[0, 0].detach().numpy()
    dt = float(made.log_dt.detach().exp())
    blocks = [np.array([[p.real, -p.imag], [p.imag, p.real]]) for p in a]
    system = (
        np.block([[blocks[0], np.zeros((2, 2))], [np.zeros((2, 2)), blocks[1]]]),
        np.array([[1.0], [0], [1], [0]]),
        2 * np.array([[v for p in c for v in (p.real, -p.imag)]]),
        np.zeros((1, 1)),
    )
    discrete = signal.cont2discrete(system, dt, method="zoh")
    _, (response,) = signal.dimpulse(discrete, n=21)
    # its response begins a step later: x_{k+1} = A x_k + B u_k
    np.testing.assert_allclose(made.kernel(20)[0, 0].detach().numpy(), response[1:, 0], atol=1e-12)


def test_first_poles() -> None:
    n = np.arange(4)
    np.testing.assert_allclose(first_poles("lin", 8), -0.5 + 1j * np.pi * n)
    np.testing.assert_allclose(first_poles("inv", 8), -0.5 + 1j * 8 / np.pi * (8 / (2 * n + 1) - 1))
    np.testing.assert_allclose(first_poles("real", 8), -(n + 1.0))
    legs = first_poles("legs", 64)
    np.testing.assert_allclose(legs.real, -0.5, atol=1e-14)
    np.testing.assert_allclose(legs.imag[-3:], [258.15, 433.03, 1303.27], atol=5e-3)
    i, k = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    root = np.sqrt((2 * i + 1) * (2 * k + 1)) / 2
    normal = np.where(i > k, -root, np.where(i < k, root, -0.5))
    slow = np.linalg.eigvals(normal)
    np.testing.assert_allclose(np.sort(slow.imag)[4:], first_poles("legs", 8).imag, atol=1e-10)
    with global_seed(0):
        drawn = first_poles("random", 64)
    assert ((drawn.imag >= 0) & (drawn.imag < np.pi * 32)).all()
    made = layer(init="legs")
    np.testing.assert_allclose(made.poles()[1].detach(), first_poles("legs", 8), atol=1e-6)
    assert (layer(dt_min=0.01, dt_max=0.02).log_dt.exp() >= 0.0099).all()


@pytest.mark.parametrize("part", ["exp", "relu", "none"])
def test_real_parts_begin_alike_and_a_real_pole_stays_real(part: Any) -> None:
    made = layer(real_part=part, init="real")
    np.testing.assert_allclose(made.poles()[0].detach(), -(np.arange(4) + 1.0), atol=1e-6)
    assert "a_imag" not in dict(made.named_parameters())
    with torch.no_grad():
        made.a_real.mul_(-1)  # relu clips at 0, where the input is summed up: its limit is no NaN
    if part == "relu":
        assert torch.equal(made.poles(), torch.zeros_like(made.poles()))
        _, b = made.discrete()
        torch.testing.assert_close(b.real, made.log_dt.exp()[:, None].expand_as(b.real))
        made.kernel(5).sum().backward()
        assert torch.isfinite(made.a_real.grad).all()


def test_a_long_kernel_in_pieces_has_the_same_values_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    made = layer()
    whole = made.kernel(50)
    (whole**2).sum().backward()
    wanted = {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}
    assert {"a_real", "a_imag", "c", "log_dt"} <= wanted.keys()
    made.zero_grad()
    monkeypatch.setattr("unweave.language.s4d.s4d._PIECE", 16)
    pieces = made.kernel(50)
    torch.testing.assert_close(pieces, whole)
    (pieces**2).sum().backward()
    for name, gradient in wanted.items():
        torch.testing.assert_close(dict(made.named_parameters())[name].grad, gradient)


def test_half_the_rate_with_twice_the_step() -> None:
    # a constant held for two steps of dt is one step of 2 dt: exact under zero-order hold
    made = layer()
    slow = signals(20)
    wanted = made.convolve(slow.repeat_interleave(2, -1))[..., 1::2]
    half = at_rate(made, 2.0)
    assert made.rate == 1.0
    torch.testing.assert_close(half.convolve(slow), wanted, rtol=0, atol=1e-10)
    assert float((made.convolve(slow) - wanted).detach().abs().max()) > 1e-2


def test_thinned_keeps_the_states_that_say_most() -> None:
    made = layer(poles=1, train_b=True, states=6)
    with torch.no_grad():
        made.c[0, :, 1] = 0  # silent in every channel
    thin = made.thinned(4)
    torch.testing.assert_close(thin(signals(30)), made(signals(30)), rtol=0, atol=1e-12)
    assert thin.c.shape == (1, 3, 2, 2)
    assert made.states == 6
    _, b = made.discrete()
    slow = (made.readout()[0] * b).abs() / made.poles().real.abs()
    torch.testing.assert_close(made.norms(), slow)


def test_groups_hold_back_poles_and_steps() -> None:
    with global_seed(0):
        net = S4DClassifier(1, 2, width=4, states=4, train_b=True)
    rest, own = s4d_groups(net, lr=0.02, weight_decay=0.1)
    assert (own["lr"], own["weight_decay"]) == (1e-3, 0.0)
    assert (rest["lr"], rest["weight_decay"]) == (0.02, 0.1)
    names = {id(p): n for n, p in net.named_parameters()}
    assert sorted(names[id(p)] for p in own["params"]) == sorted(
        f"layers.{i}.{n}" for i in (0, 1) for n in ("a_real", "a_imag", "log_dt", "b")
    )
    assert len(rest["params"]) + len(own["params"]) == len(names)
    assert s4d_groups(net, lr=1e-4)[1]["lr"] == 1e-4
    with pytest.raises(InputError, match="no S4D layer"):
        s4d_groups(torch.nn.Linear(1, 1))


def test_a_classifier_learns_where_a_pulse_was_and_streams() -> None:
    # a pulse early or late in 40 steps of noise: the mean over time of a memory tells them apart
    from unweave.embedded.digits import of_tensors

    rng = seeded(0)
    y = torch.arange(80) % 2
    x = 0.1 * torch.randn(80, 1, 40, generator=rng)
    x[torch.arange(80), 0, torch.where(y == 0, 5, 25)] += 5
    data = of_tensors(x, y, classes=2, batch_size=20)
    with global_seed(0):
        net = S4DClassifier(1, 2, width=8, states=8, dt_min=0.01)
    fit_(
        net, data, lambda m, b: data.task.losses(m, b).mean(), torch.optim.AdamW(s4d_groups(net)), epochs=40,
        rng=seeded(0),
    )  # fmt: skip
    net.eval()
    assert (net(x).argmax(1) == y).double().mean() > 0.95
    memory = net.start(3)
    for k in range(40):
        logits, memory = net.step(x[:3, :, k], memory)
    torch.testing.assert_close(logits, net(x[:3]), rtol=0, atol=1e-4)


def test_half_precision_keeps_the_kernel_wide() -> None:
    made = layer().float()
    u = signals(50).float()
    wanted = made(u)
    with torch.autocast("cpu", torch.bfloat16):
        assert made.convolve(u).dtype is torch.float32
        torch.testing.assert_close(made.convolve(u), made.convolve(u.double()).float(), rtol=0, atol=1e-5)
    half = layer().bfloat16()
    answer = half(u.bfloat16())
    assert answer.dtype is torch.bfloat16
    torch.testing.assert_close(answer.float(), wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("both", [False, True])
def test_a_fixed_length_in_plain_operations(both: bool) -> None:
    with global_seed(0):
        net = S4DClassifier(1, 3, width=4, states=4, bidirectional=both).double().eval()
    x = signals(30, 1)
    plain = fixed(net, 30)
    torch.testing.assert_close(plain(x), net(x), rtol=0, atol=1e-10)
    assert not any(t.is_complex() for t in plain.state_dict().values())
    alone = layer(bidirectional=both)
    torch.testing.assert_close(fixed(alone, 30)(signals(30)), alone(signals(30)), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    from unweave.io.onnx import export_onnx

    with global_seed(0):
        net = S4DClassifier(1, 3, width=4, states=4).eval()
    assert export_onnx(fixed(net, 30), signals(30, 1).float(), tmp_path / "net.onnx").is_file()


def test_refuses() -> None:
    made = layer()
    for call, told in (
        (lambda: S4D(4, states=7), "states must be even"),
        (lambda: S4D(6, poles=4), "poles must divide width, 6"),
        (lambda: S4D(4, dt_min=0.2), "dt_min must be at most dt_max"),
        (lambda: S4D(4, chunk=10), "chunk=10 would do nothing"),
        (lambda: S4D(4, bidirectional=True, mode="recurrent"), "mode must be 'conv'"),
        (lambda: made(torch.zeros(2, 3, 0)), "L at least 1"),
        (lambda: made(torch.zeros(2, 9, 3)), "transposed"),
        (lambda: made(torch.zeros(3, 9)), r"reads \[n, 3, L\]"),
        (lambda: layer(bidirectional=True).step(torch.zeros(1, 3), made.start(1)), "cannot go step by step"),
        (lambda: made.thinned(3), "states must be even, from 2 to 8"),
        (lambda: at_rate(made, 0.0), "rate must be above 0"),
        (lambda: at_rate(torch.nn.Linear(1, 1), 2.0), "no S4D layer"),
        (lambda: fixed(made, 0), "length must be at least 1"),
        (lambda: fixed(torch.nn.Linear(1, 1), 2), "no S4D layer"),
    ):
        with pytest.raises(InputError, match=told):
            call()
