"""Idle parts off the device: when each comes and goes, what is computed, and where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.erase.pipelines import CONCEPTS, folder, pipeline
from unweave import seeded
from unweave.erase import UCE, AdvUnlearn
from unweave.errors import InputError
from unweave.io.pipeline_folder import load_pipeline
from unweave.models.text_to_image import is_offloaded, offload_

CPU = torch.device("cpu", 0)
"""The CPU by another name, as the device that parts come to."""


@pytest.mark.parametrize("kind", ["sd", "flux"])
def test_parts_come_when_they_work_and_go_when_they_did(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = pipeline(kind), pipeline(kind)
    assert offload_(model, CPU) is model
    assert is_offloaded(model)
    assert not is_offloaded(plain)
    names = {id(m): n for n, m in model.named_modules()}
    moves: list[tuple[str, str]] = []
    own = torch.nn.Module.to

    def to(self: Any, where: Any, *more: Any) -> Any:
        if id(self) in names and isinstance(where, torch.device):
            moves.append((names[id(self)], "comes" if where.index == 0 else "goes"))
        return own(self, where, *more)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    for part in (*model.encoders, *model.vae.children()):
        if "to" in type(part).__mro__[1].__dict__:  # models of libraries have one of their own around torch's
            monkeypatch.setattr(type(part).__mro__[1], "to", to)
    images = model.sample(["a cat"], steps=1, guidance=1.0, rng=seeded(0))
    encoders = ["text_encoder", "text_encoder_2"][: len(model.encoders)]
    order = [m for m in moves if m[0].startswith(("text", "vae.decoder"))]
    assert set(order) == {(n, way) for n in (*encoders, "vae.decoder") for way in ("comes", "goes")}
    assert all(
        order[i][1] == "comes" and order[i + 1] == (order[i][0], "goes") for i in range(0, len(order), 2)
    )
    assert order[-1] == ("vae.decoder", "goes")
    assert torch.equal(images, plain.sample(["a cat"], steps=1, guidance=1.0, rng=seeded(0)))
    assert torch.equal(model.latents(images), plain.latents(images))
    moves.clear()
    text = model.encode(["a cat"])
    assert text.hidden.requires_grad
    assert {way for _, way in moves} == {"comes"}  # its graph refers to the weights
    text.hidden.sum().backward()


def test_edits_are_the_same_and_what_cannot_be_is_refused() -> None:
    model, resting = pipeline("flux"), offload_(pipeline("flux"), CPU)
    edited, again = (UCE().apply(m, CONCEPTS, rng=seeded(0)) for m in (model, resting))
    assert all(p.equal(again.get_parameter(n)) for n, p in edited.named_parameters())
    one = offload_(pipeline("sd"), CPU).editable("text_encoder")
    with pytest.raises(InputError, match="AdvUnlearn trains the text encoder, which --offload moves"):
        AdvUnlearn(retain_batch=2).apply(one, CONCEPTS, rng=seeded(0))
    with pytest.raises(InputError, match="offload keeps idle parts on the CPU.*it would do nothing"):
        load_pipeline(folder("sd"), offload=True)
