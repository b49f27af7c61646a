from __future__ import annotations

import pytest
import torch
from torch.nn import Linear, ReLU, Sequential

from unweave import seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.prune import NM, Prune
from unweave.prune.semi_structured import _compressed, is_two_of_four, to_semi_structured


def pruned() -> Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sequential(Linear(128, 128), ReLU(), Linear(128, 64))
    data = of_tensors(torch.randn(4, 128), torch.arange(4) % 2)
    return Prune(pattern=NM(2, 4)).apply(model, data, rng=seeded(0))


def test_knows_two_of_four() -> None:
    layer = Linear(8, 1, bias=False)
    for row, answer in (([1, 1, 0, 0, 0, 1, 0, 1], True), ([1, 1, 1, 0, 0, 0, 0, 0], False)):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([row]).float())
        assert is_two_of_four(layer) is answer
    assert not is_two_of_four(Linear(6, 2))
    assert all(is_two_of_four(m) for m in pruned() if isinstance(m, Linear))


def test_says_what_it_needs_where_there_is_no_gpu() -> None:
    with pytest.raises(InputError, match=r"capability 8.0 or more; the model is on cpu\. On other machines"):
        to_semi_structured(pruned())
    with pytest.raises(InputError, match="no parameter"):
        to_semi_structured(ReLU())
    with pytest.raises(
        InputError, match=r"has no 2:4 kernels for a torch.float16 weight \(128, 128\) on cpu: "
    ):
        _compressed(pruned()[0].weight.detach().half())


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="needs sparse tensor cores",
)
def test_runs_on_sparse_tensor_cores() -> None:
    model = pruned().cuda().half()
    x = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    fast = to_semi_structured(model)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-2, atol=1e-2)
    assert isinstance(fast[0].weight, torch.sparse.SparseSemiStructuredTensor)
    with pytest.raises(InputError, match="float32"):
        to_semi_structured(pruned().cuda())
    dense = Sequential(Linear(128, 128)).cuda().half()
    with pytest.raises(InputError, match="no Linear layer is 2:4"):
        to_semi_structured(dense)
