"""The task of restoring: errors an example, PSNR, what is refused, and the one place that asks for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import Identity, Linear
from torch.utils.data import TensorDataset

from unweave import Data
from unweave.errors import InputError
from unweave.tasks import Classify, Restore, Restoring, ability, able, requires

DEGRADED, CLEAN = torch.zeros(3, 1, 2, 2), torch.tensor([0.0, 0.1, 0.5]).view(3, 1, 1, 1).expand(3, 1, 2, 2)


def test_losses_are_one_an_example() -> None:
    batch = (DEGRADED, CLEAN)
    assert Restore().losses(Identity(), batch).tolist() == pytest.approx([0, 0.1, 0.5])
    assert Restore(loss="l2").losses(Identity(), batch).tolist() == pytest.approx([0, 0.01, 0.25])
    named = {"x": DEGRADED, "target": CLEAN}
    assert Restore().losses(Identity(), named).tolist() == pytest.approx([0, 0.1, 0.5])
    assert torch.equal(Restore().degraded(named), DEGRADED)
    assert torch.equal(Restore().clean(named), CLEAN)


def test_psnr_is_a_mean_over_examples_with_a_ceiling_and_a_peak() -> None:
    data = Data(TensorDataset(DEGRADED, CLEAN), Restore(), 2)
    each = [100.0, 20.0, -10 * math.log10(0.25)]
    assert Restore().measure(Identity(), data) == pytest.approx(sum(each) / 3)
    wide = Restore(peak=255.0)
    assert wide.measure(Identity(), data) == pytest.approx(
        sum(min(100, e + 20 * math.log10(255)) for e in each) / 3
    )
    assert ability(Identity(), data) == ("PSNR", pytest.approx(sum(each) / 3), "dB")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"made \(3, 1, 2, 5\) where the clean signals are \(3, 1, 2, 2\)"):
        Restore().losses(Linear(2, 5), (DEGRADED, CLEAN))
    with pytest.raises(InputError, match="loss must be l1 or l2"):
        Restore(loss="l3")
    with pytest.raises(InputError, match="peak must be above 0"):
        Restore(peak=0.0)
    assert able(Restore(), Restoring)
    with pytest.raises(
        InputError, match=r"X needs a task that is Restoring .*Classify has no clean, degraded"
    ):
        requires(Classify(2), Restoring, "X")
