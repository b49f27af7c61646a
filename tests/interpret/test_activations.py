from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.interpret import world
from tests.language_world import llama, text
from unweave import Data, seeded
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.interpret import Activations
from unweave.interpret.activations import read_layer
from unweave.interpret.layers import through


def stream(**how: object) -> Activations:
    model, train, _ = world.trained()
    return Activations(
        **{"model": model, "data": train, "layer": world.LAYER, "batch_size": 64, "buffer": 256} | how
    )  # type: ignore[arg-type]


def test_a_pass_gives_every_vector_once_in_bounded_memory() -> None:
    a = stream()
    x = a.gathered()[0]
    model, train, _ = world.trained()
    with torch.no_grad():
        direct = model[:5](train.examples.tensors[0])  # type: ignore[index,attr-defined]
    assert torch.allclose(x, direct)
    assert (len(a), a.width) == (900, 24)
    key = x.double() @ torch.arange(1, 25).double()  # tells vectors apart
    for rng in (None, seeded(1)):
        found = [batch[0] for batch in a.batches(rng)]
        assert [len(b) for b in found] == [64] * 14 + [4]
        got = torch.cat(found).double() @ torch.arange(1, 25).double()
        assert torch.equal(got.sort().values, key.sort().values)
        assert torch.equal(got, key) is (rng is None)
    again = [b[0] for b in a.batches(seeded(1), start=13)]
    assert torch.equal(torch.cat(again), torch.cat(found[13:]))
    halves = [next(a.batches(seeded(1), part=(i, 2)))[0] for i in (0, 1)]
    assert torch.equal(torch.cat(halves), found[0])


def test_more_than_the_buffer_is_never_held() -> None:
    reads = 0
    model, train, _ = world.trained()

    class Counted(type(train.task)):  # type: ignore[misc]
        def outputs(self, m: nn.Module, batch: object) -> Tensor:
            nonlocal reads
            reads += 1
            return super().outputs(m, batch)

    a = stream(data=replace(train, task=Counted(10)), batch_size=16, buffer=128)
    reads, given, most = 0, 0, 0
    for batch in a.batches(seeded(0)):
        most = max(most, 64 * reads - given)  # vectors that were read and not given out
        given += len(batch[0])
    assert most <= 128 + 64


def test_padding_is_left_out_and_gradients_are_those_of_the_summed_loss() -> None:
    model, data = llama(layers=2), text(160)
    ids = data.examples.tensors[0].clone()  # type: ignore[attr-defined]
    mask = torch.ones_like(ids)
    mask[::2, 11:] = 0
    rows_ = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]
    padded = Data(rows_, data.task, 3)  # type: ignore[arg-type]
    layer = "model.layers.0"
    a = Activations(model=model, data=padded, layer=layer, label="true", batch_size=16, buffer=64)
    x, g = a.gathered()
    assert (len(a), len(x), len(g)) == (int(mask.sum()),) * 3
    one = {k: v[None] for k, v in rows_[1].items()}
    held: list[Tensor] = []
    with through(model, layer, lambda t: held.append(t) or t):  # type: ignore[func-returns-value]
        each, counted = data.task.token_losses(model, one)
        held[0].retain_grad()
        (each * counted).sum().backward()
    model.zero_grad()
    first = int(mask[0].sum())
    assert torch.allclose(g[first : first + 16], held[0].grad[0], atol=1e-6)  # type: ignore[index]
    assert torch.allclose(x[first : first + 16], held[0][0].detach(), atol=1e-5)
    assert all(p.grad is None for p in model.parameters())


def test_labels_of_the_models_own() -> None:
    model, train, _ = world.trained()
    x = train.examples.tensors[0][:128]  # type: ignore[attr-defined]
    hidden = model[:5](x).detach().requires_grad_()  # type: ignore[index]
    logits = model[5:](hidden)  # type: ignore[index]
    F.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    assert torch.allclose(stream(label="argmax").gathered(128)[1], hidden.grad, atol=1e-6)  # type: ignore[arg-type]
    drawn = [stream(label="sampled", seed=s).gathered(128)[1] for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_maps_have_a_vector_at_each_place() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2))
    images = torch.rand(5, 1, 4, 4, generator=seeded(0))
    data = of_tensors(images, torch.arange(5) % 2, batch_size=2)
    a = Activations(model=net, data=data, layer="1", batch_size=16, buffer=32)
    assert (len(a), a.width) == (80, 6)
    assert torch.allclose(a.gathered()[0][16 + 7], net[:2](images)[1, :, 1, 3])
    batch = next(data.batches())
    with through(net, "1", lambda x: x * 0 + torch.arange(6.0)):
        put = data.task.outputs(net, batch)
    expected = net[2:](torch.arange(6.0)[None, :, None, None].expand(2, 6, 4, 4))
    assert torch.allclose(put, expected)


class Blocked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(x.flatten(1)))
        with torch.no_grad():
            out: Tensor = self.head(x)
        return out


def test_refuses() -> None:
    model, train, _ = world.trained()
    with pytest.raises(InputError, match=r"this Sequential has no layer '44'\. Did you mean 4\?"):
        stream(layer="44")
    with pytest.raises(InputError, match=r"no layer ''\. There are: 0, 1, 2"):
        stream(layer="")
    with pytest.raises(InputError, match=r"no layer 'layers\.0\.mlp'\. Did you mean model\.layers\.0\.mlp"):
        Activations(model=llama(), data=text(), layer="layers.0.mlp")
    with pytest.raises(InputError, match="at least two batches, 128 vectors; got 100"):
        stream(buffer=100)
    with pytest.raises(InputError, match="at least one example"):
        stream(data=train.subset([]))
    with pytest.raises(InputError, match="label must be"):
        stream(label="odd")
    blocked = Blocked()
    with pytest.raises(InputError, match="'shared' was called 2 times in one pass"):
        stream(model=blocked, layer="shared")
    once = nn.Sequential(nn.Flatten(), Blocked())
    with pytest.raises(InputError, match="no gradient of the loss reaches the layer '0'"):
        next(stream(model=once, layer="0", label="argmax").batches())
    broken = world.network()
    with torch.no_grad():
        broken[3].bias[0] = torch.nan  # type: ignore[index]
    with pytest.raises(InputError, match="an activation of the layer '4' is not finite"):
        read_layer(broken, next(train.batches()), train.task, "4")
