"""Every eraser there is, on every layout, prediction and precision that pipelines come in.

They are those of the catalogue, each with the settings of its row in the contract's table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.contract.erasers import ERASERS
from tests.erase.pipelines import CONCEPTS, KINDS, pipeline
from unweave import erase, seeded
from unweave.catalogue import methods
from unweave.errors import InputError
from unweave.io.pipeline_folder import load_pipeline, save_pipeline
from unweave.jobs.erase import EraseJob
from unweave.jobs.pipelines import PipelineSubject

ASKED = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
ROWS = {row.name: row for row in ERASERS}
METHODS = [
    ROWS[m.cls.__name__].run.args[0]  # type: ignore[attr-defined]
    for m in methods()
    if m.family == "erase" and hasattr(m.cls, "apply")
]
ALL_KINDS = (*KINDS, "sd3", "flux")
ENCODERS, ADDED = (
    "AdvUnlearn: pipelines with several text encoders",
    "SFD is written for diffusion by added noise",
)
REFUSED = {
    ("AdvUnlearn", "sdxl"): ENCODERS, ("AdvUnlearn", "sd3"): ENCODERS, ("AdvUnlearn", "flux"): ENCODERS,
    ("SFD", "sd3"): ADDED, ("SFD", "flux"): ADDED,
    ("SculptingMemory", "flux"): "SculptingMemory draws every guide with its concept as negative prompt; guidance is built",
}  # fmt: skip
"""(method, layout) -> why it is refused, by name; all others work."""


def named(method: Any) -> str:
    return type(method).__name__


def checked(method: Any, model: Any, path: Any) -> Any:
    """What was edited: it moved, it can be read back (given a path), and it draws something finite."""
    edited = method.apply(model, ASKED, rng=seeded(0))
    own = dict(model.named_parameters())
    assert any(not p.equal(own[n]) for n, p in edited.named_parameters())
    back = edited
    if path is not None:
        save_pipeline(edited, path / "edited")
        back = load_pipeline(path / "edited")
        assert all(p.equal(edited.get_parameter(n)) for n, p in back.named_parameters())
    assert back.sample(["a cat"], steps=1, guidance=1.0, rng=seeded(0)).isfinite().all()
    return edited


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_layouts(kind: Any, method: Any, tmp_path) -> None:
    if (named(method), kind) not in REFUSED:
        checked(method, pipeline(kind), tmp_path if kind in KINDS else None)
        return
    with pytest.raises(InputError, match=REFUSED[named(method), kind]):
        method.apply(pipeline(kind), ASKED, rng=seeded(0))


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_what_does_not_fit_is_refused_before_anything_else_is_edited(kind: Any) -> None:
    subject = PipelineSubject(original=pipeline(kind), concepts=ASKED, judge=Judged())
    for name, method in ((named(m), m) for m in METHODS):
        if (name, kind) in REFUSED:
            with pytest.raises(InputError, match=REFUSED[name, kind]):
                EraseJob(subject=subject, edits={"uce": erase.UCE(), name: method})
    for attack in (erase.TokenSearch(), erase.UnlearnDiffAtk()):
        with pytest.raises(
            InputError, match=f"{type(attack).__name__}: pipelines with several text encoders"
        ):
            EraseJob(subject=subject, edits={"uce": erase.UCE()}, attack=attack)


class Judged:
    """Names nothing."""

    def names(self, images: Any) -> list[str]:
        return [""] * len(images)

    def features(self, images: Any) -> Any:
        return images.flatten(1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_velocity(method: Any, tmp_path) -> None:
    model = pipeline("sd")
    model.scheduler.register_to_config(prediction_type="v_prediction")
    checked(method, model, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=named)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(method: Any, dtype: torch.dtype, tmp_path) -> None:
    model, whole = pipeline("sd"), pipeline("sd")
    for part in (model.denoiser, model.text_encoder, model.vae):
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    before = {n: p.clone() for n, p in model.named_parameters()}
    edited = checked(method, model, tmp_path)
    assert all(p.equal(before[n]) for n, p in model.named_parameters())
    assert {p.dtype for p in edited.parameters()} == {dtype}
    wide = dict(method.apply(whole, ASKED, rng=seeded(0)).named_parameters())
    moved = {n for n, p in edited.named_parameters() if not p.equal(before[n])}
    assert moved <= {n for n, p in wide.items() if not p.equal(whole.get_parameter(n))}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_trains_as_float32_does(dtype: torch.dtype) -> None:
    """Steps of 1e-5, which are lost on weights of 0.1 in half precision, add up in float32 and are kept at the end."""
    model = pipeline("sd")
    for part in (model.denoiser, model.text_encoder):
        for tensor in (*part.parameters(), *part.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    method = erase.ESD(steps=60, lr=2e-5, sampler_steps=3, batch_size=1)
    edited = method.apply(model, ASKED, rng=seeded(0))
    wide = pipeline("sd")
    for name, parameter in wide.named_parameters():
        parameter.data = model.get_parameter(name).detach().float()
    exact = method.apply(wide, ASKED, rng=seeded(0))
    assert all(p.equal(exact.get_parameter(n).to(p.dtype)) for n, p in edited.named_parameters())
    assert any(not p.equal(model.get_parameter(n)) for n, p in edited.named_parameters())
