from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Dropout, Linear, Module, Sequential

from tests.contract import world
from tests.language_world import llama, text
from unweave import Data, seeded
from unweave.errors import InputError
from unweave.prune import FATReLU, ProSparse, SparseFeedForward, activation_sparsity, register_fatrelu
from unweave.prune.prosparse import prosparse as module
from unweave.prune.prosparse.prosparse import activations, feed_forwards, substitute


def test_fatrelu_gives_exact_zeros() -> None:
    x = torch.tensor([-1.0, 0.0, 0.05, 0.1, 0.3])
    assert FATReLU(0.1)(x).tolist() == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.3])
    assert torch.equal(FATReLU()(x), torch.relu(x))


def test_the_schedule_is_flat_at_its_peaks_and_rises_between() -> None:
    how = ProSparse(relu=0.1, warm=0.1, peaks=(1.0, 3.0, 4.0), plateau=0.2)
    found = [how.penalty(t, 1000) for t in range(1000)]
    assert set(found[:100]) == {0.0}
    assert set(found[100:200]) == {1.0}
    assert set(found[800:]) == {4.0}
    assert found[500] == pytest.approx(3.0)  # the middle of the two sines
    assert found[350] == pytest.approx(2.0)
    assert all(a <= b for a, b in zip(found[200:], found[201:], strict=False))
    slopes = [b - a for a, b in zip(found[200:800], found[201:801], strict=True)]
    for end in (0, 299, 300, 598):
        assert slopes[end] < 0.05 * max(slopes)
    assert ProSparse(peaks=(2.0,)).penalty(999, 1000) == 2.0


def test_substitution_leaves_the_model_alone_and_makes_zeros() -> None:
    model, data = llama(), text(160)
    silu = feed_forwards(model)[0].activation
    sparse = substitute(model)
    assert feed_forwards(model)[0].activation is silu
    assert max(activation_sparsity(model, data)) == 0.0
    assert 0.3 < min(activation_sparsity(sparse, data)) < 0.7
    higher = activation_sparsity(substitute(model, 0.5), data)
    assert all(h > s for h, s in zip(higher, activation_sparsity(sparse, data), strict=True))


def test_sparsity_counts_no_padding() -> None:
    model, (ids,) = substitute(llama()), next(text(160).batches())
    with activations(model) as seen, torch.no_grad():
        model(input_ids=ids)
    share = float((seen[0][:, :4] == 0).float().mean())

    class Padded:
        task = text().task

        def batches(self):
            mask = torch.zeros_like(ids)
            mask[:, :4] = 1
            yield {"input_ids": ids, "attention_mask": mask}

    with torch.no_grad():
        assert activation_sparsity(model, Padded())[0] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("relu", [0.0, 0.5])
def test_the_loss_is_that_of_the_text_and_the_penalty(relu: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(module, "fit_", lambda model, data, loss, *a, **k: seen.append((model, loss)))
    ids = text(160).examples.tensors[0]
    mask = torch.ones_like(ids)
    mask[:, 12:] = 0
    rows = [{"input_ids": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)]
    data = Data(rows, text().task, 5)
    ProSparse(relu=relu, warm=0.2, peaks=(0.7, 9.0)).apply(llama(), data, rng=seeded(0))
    model, loss = seen[0]
    batch = next(data.batches())
    with activations(model) as inner, torch.no_grad():
        found = loss(model, batch)
        inner.clear()
        plain = data.task.losses(model, batch).mean()
    penalty = sum(x[:, :12].abs().mean() for x in inner) / 2  # padding counts nowhere; two layers
    torch.testing.assert_close(found, plain + (0.7 * penalty if relu == 0 else 0))


def test_the_penalty_raises_sparsity_and_zeros_not_only_sizes() -> None:
    model, data = llama(), text(1280)
    found = {
        name: activation_sparsity(
            ProSparse(peaks=peaks, threshold=0.0, epochs=8, lr=5e-3).apply(model, data, rng=seeded(0)), data
        )
        for name, peaks in (("none", (1e-9,)), ("some", (5.0, 50.0)))
    }
    assert sum(found["some"]) / 2 > sum(found["none"]) / 2 + 0.1


def test_skipping_rows_changes_nothing() -> None:
    block = feed_forwards(substitute(llama(), 0.3))[0].block
    fast, x = SparseFeedForward(block), torch.randn(3, 1, 32, generator=seeded(0))
    with torch.no_grad():
        for token in x:
            torch.testing.assert_close(fast(token), block(token), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(fast(x), block(x), rtol=1e-4, atol=1e-6)
        assert torch.equal(fast(-1e9 * torch.zeros(1, 32)), torch.zeros(1, 32))


class Renamed(Module):
    """A gated feed-forward by other names, its gate the second of the two wide layers."""

    def __init__(self, *, bias: bool = False, gated: bool = True) -> None:
        super().__init__()
        self.w3, self.w1, self.w2 = Linear(8, 20, bias), Linear(8, 20, bias), Linear(20, 8, bias)
        self.relu, self.drop, self.gated = FATReLU(0.1), Dropout(0.5), gated

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.relu(self.w1(x)), self.w3(x)
        return self.w2(self.drop(gate * up if self.gated else gate + up))


def test_feed_forwards_are_known_by_their_shapes_whatever_they_are_called() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sequential(
            Linear(8, 8), Renamed(), Sequential(Linear(8, 20), Linear(8, 20), Linear(20, 8))
        ).eval()
        (found,) = feed_forwards(model)
        x = torch.randn(5, 1, 8)
    assert (found.block, found.down, found.name) == (model[1], model[1].w2, "relu")
    fast = SparseFeedForward(model[1])
    with torch.no_grad():
        for token in x:
            torch.testing.assert_close(fast(token), model[1](token), rtol=1e-4, atol=1e-6)
        sparse = substitute(model, 0.7)
        assert sparse[1].relu.threshold == 0.7
        with activations(sparse) as seen:
            sparse[1](x)
        want = torch.where(model[1].w1(x) >= 0.7, model[1].w1(x), 0.0) * model[1].w3(x)
        torch.testing.assert_close(seen[0], want)


def test_refuses() -> None:
    for bad in (
        {"relu": 0.9, "warm": 0.2},
        {"peaks": (2.0, 1.0)},
        {"peaks": ()},
        {"threshold": -1.0},
        {"lr": 0.0},
        {"relu": 1.0, "warm": 0.0, "plateau": 0.0},
        {"peaks": (0.0, 1.0)},
        {"peaks": (1.0, 1.0)},
    ):
        with pytest.raises(InputError, match="ProSparse"):
            ProSparse(**bad)
    with pytest.raises(InputError, match="FATReLU"):
        FATReLU(-0.1)
    with pytest.raises(InputError, match="no gated feed-forward"):
        ProSparse().apply(world.model(), text(160), rng=seeded(0))
    with pytest.raises(InputError, match="ProSparse needs a task that is CausalLM"):
        ProSparse().apply(llama(), world.points()[0], rng=seeded(0))
    for block, match in (
        (Renamed(gated=False), "got a Renamed"),
        (Sequential(Linear(8, 8)), "got a Sequential"),
        (Renamed(bias=True), "without biases"),
    ):
        with pytest.raises(InputError, match=match):
            SparseFeedForward(block.eval())


@pytest.mark.parametrize(("kind", "above"), [("Llama", 0.0123), ("Qwen3", 0.0124), ("Mistral", 0.0125)])
def test_a_saved_model_is_read_again_as_it_computes(tmp_path: Path, kind: str, above: float) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    ids = torch.randint(3, 64, (2, 12))
    own = model.config.to_dict()
    for threshold in (0.0, above):
        sparse = substitute(model, threshold)
        sparse.save_pretrained(tmp_path / f"{threshold}")
        if threshold:
            with pytest.raises(KeyError, match=r"fatrelu\(0.01\d+\)"):
                type(model).from_pretrained(tmp_path / f"{threshold}")
            assert register_fatrelu(threshold) == f"fatrelu({above})"
        again = type(model).from_pretrained(tmp_path / f"{threshold}").eval()
        with torch.no_grad():
            assert torch.equal(again(input_ids=ids).logits, sparse(input_ids=ids).logits)
            assert not torch.allclose(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-6)
    assert model.config.to_dict() == own


def test_a_configuration_that_cannot_say_it_is_told() -> None:
    transformers = pytest.importorskip("transformers")

    class Odd(transformers.LlamaForCausalLM):  # type: ignore[misc,name-defined]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            for layer in self.model.layers:
                layer.mlp.act_fn = torch.nn.Tanh()

    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.warns(UserWarning, match="no field of LlamaConfig names the activation"):
        substitute(Odd(config))
