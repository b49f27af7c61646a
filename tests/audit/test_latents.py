"""Latents of what was forgotten: who is chosen, what is measured on others, and both kinds of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.audit.test_erasure import ASKED, drawn
from tests.erase.pipelines import pipeline
from unweave import Data, seeded
from unweave.audit.drawing.run import audit_erasure
from unweave.audit.latents import (
    NAME,
    Speaking,
    codes_of,
    still_active,
    still_active_drawn,
    still_active_read,
)
from unweave.errors import InputError
from unweave.interpret import Dictionary, SparseAutoencoder, drawn_activations, vectors


def codes(seed: int, n: int = 40, latents: int = 30) -> Tensor:
    return torch.randn(n, latents, generator=seeded(seed), dtype=torch.float64)


def test_chooses_latents_by_how_clearly_they_set_the_sides_apart() -> None:
    forget, others = codes(0), codes(1)
    forget[:, 3] += 5
    forget[:, 7] += 2
    others[:, 9] += 9  # speaks of the others
    speaking = Speaking.of(forget, others, 2)
    assert speaking.which.tolist() == [3, 7]
    spread = ((forget[:, 3].var(correction=0) + others[:, 3].var(correction=0)) / 2).sqrt()
    assert float(speaking.spread[0]) == pytest.approx(float(spread))
    apart = (forget.mean(0) - others.mean(0))[[3, 7]] / speaking.spread
    assert speaking.gap(forget, others) == pytest.approx(float(apart.mean()))


def test_measures_on_examples_that_chose_nothing() -> None:
    # noise alone: the best of 200 latents look far apart where they were chosen, and not elsewhere
    forget, others = codes(0, 60, 200), codes(1, 60, 200)
    chosen = Speaking.of(forget[::2], others[::2])
    assert chosen.gap(forget[::2], others[::2]) > 0.4
    found = still_active(lambda _: (forget, others), nn.Identity(), nn.Identity(), layer="x")
    assert abs(found.value or 0.0) < 0.15
    with pytest.raises(InputError, match="each side needs at least 4; got 3 forgotten and 60"):
        still_active(lambda _: (forget[:3], others), nn.Identity(), nn.Identity(), layer="x")


def test_latents_that_never_speak_are_not_chosen() -> None:
    silent = torch.zeros(8, 5, dtype=torch.float64)
    assert not len(Speaking.of(silent, silent).which)
    assert Speaking.of(silent, silent).gap(silent, silent) == 0


class Reads:
    """A task of rows; the model's layer is what is looked at."""

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return self.outputs(model, batch).square().sum(-1)

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])


def layered(scale: float) -> nn.Sequential:
    """Passes two directions on: the second, which speaks of the forgotten side, times `scale`."""
    first = nn.Linear(2, 2, bias=False)
    first.weight.data.copy_(torch.diag(torch.tensor([1.0, scale])))
    return nn.Sequential(first, nn.Linear(2, 1))


def test_falls_with_the_direction_that_an_edit_takes_out() -> None:
    sae = SparseAutoencoder(2, 2, gate="jumprelu", rng=seeded(0)).requires_grad_(False)
    for name in ("W_enc", "W_dec"):
        getattr(sae, name).copy_(torch.eye(2))
    x = torch.rand(24, 2, generator=seeded(1))
    forget, others = x[:12] + torch.tensor([0.0, 3.0]), x[12:]
    sides = [Data(TensorDataset(part), Reads(), 5) for part in (forget, others)]
    torch.testing.assert_close(codes_of(layered(1.0), sae, "0", sides[0]), forget.double())
    found = still_active_read(
        sae, "0", *sides, edited=layered(0.5), original=layered(1.0), oracles=[layered(0.0)] * 2, most=1
    )
    spread = float(((forget[::2, 1].var(correction=0) + others[::2, 1].var(correction=0)) / 2).sqrt())
    gap = float(forget[1::2, 1].mean() - others[1::2, 1].mean()) / spread
    assert found.original == pytest.approx(gap, rel=1e-5)
    assert found.value == pytest.approx(gap / 2, rel=1e-5)
    assert found.oracle_mean == 0
    assert "1 latents of 0" in found.note
    with pytest.raises(InputError, match="no layer '5'"):
        still_active_read(sae, "5", *sides, edited=layered(0.5), original=layered(1.0))


@pytest.mark.slow
def test_pipelines_while_they_draw_and_the_figure_in_their_audit() -> None:
    model, noise = pipeline("sd"), torch.randn(2, 4, 8, 8, generator=seeded(0))
    with torch.no_grad():
        for layer in model.linears("cross_kv").values():
            layer.weight.mul_(20)  # random weights hardly read their prompts
    asked: dict[str, Any] = {"noise": noise, "steps": 3, "stop": 2}
    read = drawn_activations(model, ["a cat", "a dog"], "mid_block", **asked)
    assert read.shape[:2] == (4, 2 * 4 * 4)
    alone = drawn_activations(model, ["a dog"], "mid_block", **asked | {"noise": noise[1:]})
    torch.testing.assert_close(read[3:], alone, rtol=1e-4, atol=1e-4)
    sae = Dictionary(latents=24, k=4, batch_size=64, buffer=128).fit(vectors(read, 64), rng=seeded(0))
    blank = model.editable()
    with torch.no_grad():
        for layer in blank.linears("cross_kv").values():
            layer.weight.zero_()
    found = still_active_drawn(
        sae, "mid_block", ["a cat", "a photo of a cat"], ["a dog", "a photo of a dog"], edited=blank, original=model, **asked
    )  # fmt: skip
    assert found.value == pytest.approx(0.0, abs=1e-6)
    assert (found.original or 0.0) > 0.01
    audit = audit_erasure(ASKED, drawn(0.0), drawn(0.0), judge=None, changed=0.1, seconds=1.0, latents=found)
    assert [m for m in audit.measurements if m.name == NAME] == [found]
    with pytest.raises(InputError, match="stop from 1 to steps"):
        drawn_activations(model, ["a cat"], "mid_block", noise=noise, steps=2, stop=3)
