from __future__ import annotations

from dataclasses import replace
from math import cos, log, pi, sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract import world
from unweave import Mask, Request, fit_, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import EmptyDataError, InputError, IntegrityError
from unweave.io.checkpoint import save_model
from unweave.unlearn import RewindToDelete, _train
from unweave.unlearn.rewind_to_delete import sensitivity

CONSTANTS: dict[str, Any] = {
    "smoothness": 1.0, "gradient_bound": 2.0, "steps_before": 3, "epsilon": 1.0, "delta": 1e-3,
    "momentum": 0, "weight_decay": 0, "schedule": "constant",
}  # fmt: skip


def earlier(folder: Path, **kinds: Any) -> str:
    model = world.model(**kinds)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)
    return str(save_model(model, folder / "earlier.safetensors"))


def descend(w: Tensor, x: Tensor, y: Tensor, lr: float, steps: int) -> Tensor:
    """Full-batch gradient descent on softmax regression: gradient (p - onehot) x', averaged."""
    for _ in range(steps):
        p = torch.softmax(x @ w.T, 1)
        p[torch.arange(len(y)), y] -= 1
        w = w - lr * p.T @ x / len(x)
    return w


def regression(n: int = 20) -> tuple[Request, Tensor, Tensor]:
    x, y = torch.randn(n, 4, generator=seeded(0), dtype=torch.float64), torch.arange(n) % 3
    x = x / x.norm(dim=1, keepdim=True)
    data = of_tensors(x, y, classes=3, batch_size=n)
    return Request.of(data, data, [0, 1, 2]), x, y


def test_exact() -> None:
    # 2 m G / (n L) ((1 + lr L)^2 - 1) (1 + lr L)^3 with m/n = 1/10, G = 5, L = 2, lr = 0.5: 0.5 * 3 * 8 = 12
    given = dict(smoothness=2, gradient_bound=5, lr=0.5, forgotten=1, total=10)
    assert sensitivity(**given, steps_before=2, steps_after=3) == pytest.approx(12)  # type: ignore[arg-type]
    method = RewindToDelete(
        checkpoint="x",
        epochs=3,
        lr=0.5,
        **{**CONSTANTS, "smoothness": 2.0, "gradient_bound": 5.0, "steps_before": 2},
    )
    assert method.certified_noise(1, 10) == pytest.approx(12 * sqrt(2 * log(1250)))
    assert method.certified
    assert not RewindToDelete(checkpoint="x").certified


def test_naive(tmp_path: Path) -> None:
    request, x, y = regression()
    start = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    path = save_model(start, tmp_path / "a.safetensors")
    model = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    method = RewindToDelete(
        checkpoint=str(path), epochs=7, lr=0.4, momentum=0, weight_decay=0, schedule="constant"
    )
    edited = method.apply(model, request, rng=seeded(0))
    torch.testing.assert_close(
        edited.weight.detach(), descend(start.weight.detach(), x[3:], y[3:], 0.4, 7), rtol=1e-10, atol=1e-12
    )


def test_distance_to_retraining_is_within_the_certified_bound_and_shrinks_with_rewinding(
    tmp_path: Path,
) -> None:
    # Softmax regression with |x| = 1: gradient norm |p - onehot| |x| <= sqrt 2, smoothness at most 1/2 |x|^2.
    request, x, y = regression()
    init = torch.zeros(3, 4, dtype=torch.float64)
    retrained = descend(init, x[3:], y[3:], 0.5, 12)
    distances = []
    for before in (12, 8, 4, 0):
        start = nn.Linear(4, 3, bias=False, dtype=torch.float64)
        with torch.no_grad():
            start.weight.copy_(descend(init, x, y, 0.5, before))
        distance = float((start.weight.detach() - retrained).norm())
        if before < 12:
            method = RewindToDelete(
                checkpoint=str(save_model(start, tmp_path / f"{before}.safetensors")),
                epochs=12 - before,
                lr=0.5,
                momentum=0,
                weight_decay=0,
                schedule="constant",
            )
            distance = float((method.apply(start, request, rng=seeded(0)).weight.detach() - retrained).norm())
        distances.append(distance)
        bound = sensitivity(
            smoothness=0.5,
            gradient_bound=2**0.5,
            lr=0.5,
            steps_before=before,
            steps_after=12 - before,
            forgotten=3,
            total=20,
        )
        assert distance <= bound + 1e-12
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.05
    assert distances[-1] < 1e-12


def test_noise_has_its_deviation_and_spares_the_dead_and_the_frozen(tmp_path: Path) -> None:
    model, request = world.model(sparse=True), world.request()
    model[3].bias.requires_grad_(False)
    quiet = RewindToDelete(checkpoint=earlier(tmp_path), epochs=1)
    plain = quiet.apply(model, request, rng=seeded(0))
    noisy = replace(quiet, noise=0.3).apply(model, request, rng=seeded(0))
    alive = Mask.of(model).keep["1.weight"]
    added = (noisy[1].weight - plain[1].weight).detach()
    assert float(added[alive].std()) == pytest.approx(0.3, rel=0.25)  # 96 draws: 3.5 standard errors
    assert torch.equal(noisy[1].weight[~alive], torch.zeros_like(noisy[1].weight[~alive]))
    assert torch.equal(noisy[3].bias, model[3].bias)


def test_certified_run_takes_full_batches_and_its_own_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, request = world.model(), world.request()
    sizes: list[int] = []

    def spy(model: nn.Module, data: Any, *args: Any, **settings: Any) -> Any:
        sizes.append(data.batch_size)
        return fit_(model, data, *args, **settings)

    monkeypatch.setattr(_train, "fit_", spy)
    path = earlier(tmp_path)
    method = RewindToDelete(checkpoint=path, epochs=2, lr=0.01, **CONSTANTS)
    plain = RewindToDelete(
        checkpoint=path, epochs=2, lr=0.01, momentum=0, weight_decay=0, schedule="constant"
    )
    whole = replace(request, retain=replace(request.retain, batch_size=78))
    difference = (
        method.apply(model, request, rng=seeded(0))[1].weight
        - plain.apply(model, whole, rng=seeded(0))[1].weight
    )
    assert sizes == [78, 78]
    assert float(difference.detach().std()) == pytest.approx(method.certified_noise(12, 90), rel=0.2)


def test_starts_at_the_checkpoint_not_at_the_model(tmp_path: Path) -> None:
    model, request = world.model(), world.request()
    method = RewindToDelete(checkpoint=earlier(tmp_path), epochs=1, lr=1e-9)
    edited = method.apply(model, request, rng=seeded(0))
    torch.testing.assert_close(edited[1].weight, 0.5 * model[1].weight, rtol=1e-5, atol=1e-6)


def test_refuses(tmp_path: Path) -> None:
    for settings, message in [
        ({"checkpoint": ""}, "must name a file"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"schedule": "steps"}, "schedule must be"),
        ({"epsilon": 1.0}, "lacks smoothness, gradient_bound, steps_before, delta for a certificate"),
        ({**CONSTANTS, "epsilon": 2.0}, "epsilon must be above 0 and at most 1"),
        ({**CONSTANTS, "momentum": 0.9}, "Set momentum=0"),
        ({**CONSTANTS, "noise": 0.1}, "noise=0"),
    ]:
        with pytest.raises(InputError, match=message):
            RewindToDelete(**{"checkpoint": "x", **settings})
    model, request = world.model(), world.request()
    path = earlier(tmp_path)
    with pytest.raises(EmptyDataError, match="RewindToDelete"):
        RewindToDelete(checkpoint=path).apply(
            model, replace(request, forget=request.forget.subset([])), rng=seeded(0)
        )
    certain = RewindToDelete(checkpoint=path, **CONSTANTS)
    with pytest.raises(InputError, match="running statistics"):
        certain.apply(world.model(batch_norm=True), request, rng=seeded(0))
    with pytest.raises(InputError, match="cannot certify a pruned model"):
        certain.apply(world.model(sparse=True), request, rng=seeded(0))
    with pytest.raises(InputError, match="infinite noise"):
        replace(certain, steps_before=10**6).apply(model, request, rng=seeded(0))
    with pytest.raises(InputError, match="needs all of"):
        RewindToDelete(checkpoint=path).certified_noise(1, 10)
    with pytest.raises(InputError):
        RewindToDelete(checkpoint=path).apply(world.model(batch_norm=True), request, rng=seeded(0))
    with pytest.raises(InputError, match="no model at"):
        RewindToDelete(checkpoint=str(tmp_path / "absent.safetensors")).apply(model, request, rng=seeded(0))
    (tmp_path / "cut.safetensors").write_bytes(Path(path).read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        RewindToDelete(checkpoint=str(tmp_path / "cut.safetensors")).apply(model, request, rng=seeded(0))


def test_naive_cosine_momentum_and_decay(tmp_path: Path) -> None:
    # full batches, so a step an epoch: factors 1, then half a cosine from 1 down to 0 at the last
    request, x, y = regression()
    start = nn.Linear(4, 3, bias=False, dtype=torch.float64)
    path = save_model(start, tmp_path / "a.safetensors")
    method = RewindToDelete(checkpoint=str(path), epochs=5, lr=0.4, momentum=0.8, weight_decay=0.05)
    edited = method.apply(nn.Linear(4, 3, bias=False, dtype=torch.float64), request, rng=seeded(0))
    w, speed = start.weight.detach().clone(), torch.zeros(3, 4, dtype=torch.float64)
    for step in range(5):
        factor = 1.0 if step == 0 else 0.5 * (1 + cos(pi * (step - 1) / 4))
        slope = (w - descend(w, x[3:], y[3:], 1.0, 1)) + 0.05 * w
        speed = 0.8 * speed + slope
        w = w - 0.4 * factor * speed
    torch.testing.assert_close(edited.weight.detach(), w, rtol=1e-10, atol=1e-12)


def test_frozen_parameters_keep_the_models_values(tmp_path: Path) -> None:
    model, request = world.model(), world.request()
    model[1].weight.requires_grad_(False)
    edited = RewindToDelete(checkpoint=earlier(tmp_path), epochs=1, lr=1e-9).apply(
        model, request, rng=seeded(0)
    )
    assert torch.equal(edited[1].weight, model[1].weight)
    torch.testing.assert_close(edited[3].weight, 0.5 * model[3].weight, rtol=1e-5, atol=1e-6)
