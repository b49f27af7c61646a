"""Half precision held in float32 for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unweave.fit.precision import Wide, is_narrow, narrow_, widen_


def net(dtype: torch.dtype) -> nn.Sequential:
    made = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    made[0].weight.data = made[0].weight.data.to(dtype)
    return made


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_widened_and_narrowed_again_bits_stay(dtype: torch.dtype) -> None:
    given, wide = net(dtype), net(dtype)
    wide.load_state_dict(given.state_dict())
    assert is_narrow(wide)
    assert not is_narrow(net(torch.float32))
    widen_(wide)
    assert not is_narrow(wide)
    assert {t.dtype for t in wide.state_dict().values()} == {torch.float32, torch.int64}
    with torch.no_grad():
        wide[0].weight[0] += 1e-4
        wide[0].bias += 1e-4
    kept, bias = wide[0].weight[0].clone(), wide[0].bias.clone()
    narrow_(wide, given)
    assert wide[0].weight.dtype == dtype
    assert wide[0].bias.dtype == torch.float32
    assert torch.equal(wide[0].weight[0], kept.to(dtype))
    assert torch.equal(wide[0].weight[1], given[0].weight[1])
    assert torch.equal(wide[0].bias, bias)


def test_a_buffer_alone_makes_a_model_narrow() -> None:
    model = nn.BatchNorm1d(2)
    model.running_mean = model.running_mean.half()
    assert is_narrow(model)
    widen_(model)
    assert model.running_mean.dtype == torch.float32


def test_wide_leaves_alone_what_is_not_trained() -> None:
    model = net(torch.float16)
    Wide(model, [model[0].bias])
    assert model[0].weight.dtype == torch.float16
    held = Wide(model, [model[0].weight])
    assert model[0].weight.dtype == torch.float32
    with torch.no_grad():
        model[0].weight[0, 0] = -65504.0
    assert not held.overflows()
    with torch.no_grad():
        model[0].weight[0, 0] = -65520.0
    assert held.overflows()
    held.put_back_()
    assert model[0].weight.dtype == torch.float16
