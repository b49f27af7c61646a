"""What cannot be cut is left with its reason, and the rest of the model is cut all the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unweave.embedded.nets import count_parameters
from unweave.errors import InputError
from unweave.prune import shrink


def halved(model: nn.Module, *, spare: tuple[str, ...] = ()) -> nn.Module:
    """The first half of each layer's filters dead, with their biases."""
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)) and name not in spare:
                half = len(layer.weight) // 2
                layer.weight[:half] = 0
                if layer.bias is not None:
                    layer.bias[:half] = 0
    return model.eval()


def tail(width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(width, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    ]  # fmt: skip


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.reads, self.rnn = nn.Linear(3, 8), kind(8, 8, batch_first=True)
        self.mid, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mid(self.rnn(self.reads(x.flatten(2).transpose(1, 2)))[0][:, -1])))


@pytest.mark.parametrize(
    ("first", "stays"),
    [
        ([nn.Conv2d(3, 16, 3, padding=1), nn.GLU(1), *tail(8)], {"0"}),
        ([nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), *tail(2)], {"0"}),
        ([nn.Conv2d(3, 8, 3, padding=1), Shuffle(), *tail(8)], set()),
        ([nn.Conv2d(3, 8, 3, padding=1), nn.Softmax(1), *tail(8)], {"0"}),
    ],
    ids=["glu", "pixel-shuffle", "channel-shuffle", "softmax"],
)
def test_layers_after_one_that_mixes_channels_are_cut(first: list[nn.Module], stays: set[str]) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*first)
    model, x = halved(layers, spare=(str(len(first) - 1),)), torch.randn(4, 3, 8, 8)
    shrunk = shrink(model, x)
    torch.testing.assert_close(shrunk.model(x), model(x), atol=1e-5, rtol=1e-5)
    assert stays <= shrunk.left.keys()
    assert all(shrunk.left.values())
    assert (shrunk.model[2].out_channels, shrunk.model[4].in_channels) == (4, 4)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_stay(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model, x = halved(Recurrent(kind), spare=("out",)), torch.randn(4, 3, 2, 3)
    shrunk = shrink(model, x)
    torch.testing.assert_close(shrunk.model(x), model(x))
    assert shrunk.left.keys() == {"reads"}
    assert shrunk.model.mid.out_features == shrunk.model.out.in_features == 4


class Gated(nn.Module):
    """down(act(gate(x)) * up(x)); the order of its layers says nothing."""

    def __init__(self, act: nn.Module, *, bias: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10, bias), nn.Linear(10, 6, bias)
        self.gate, self.act = nn.Linear(6, 10, bias), act

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


@pytest.mark.parametrize(
    ("act", "kept"),
    [(nn.SiLU(), [0, 3, 4, 6, 7, 8, 9]), (nn.Sigmoid(), [0, 1, 3, 4, 6, 7, 8, 9])],
    ids=["silu", "sigmoid"],
)
def test_a_gated_unit_goes_where_its_product_is_zero(act: nn.Module, kept: list[int]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Gated(act), nn.Linear(6, 3)).eval(), torch.randn(5, 6)
    with torch.no_grad():
        model[0].gate.weight[[1, 2, 5]] = 0
        model[0].up.weight[[2, 5]] = 0
    shrunk = shrink(model, x)
    assert shrunk.structure["tensors"]["0.down.weight"]["1"] == {"of": 10, "kept": kept}
    assert shrunk.structure["tensors"]["0.gate.weight"] == shrunk.structure["tensors"]["0.up.weight"]
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_a_gated_unit_with_a_bias_is_no_zero() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Gated(nn.SiLU(), bias=True), nn.Linear(6, 3)).eval(), torch.randn(5, 6)
    with torch.no_grad():
        model[0].up.weight[[1, 2]] = 0
        model[0].up.bias[1] = 0
    shrunk = shrink(model, x)
    assert shrunk.model[0].down.in_features == 9
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_a_constant_is_one_within_rounding() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steps = torch.arange(x.shape[0])[:, None]
            return x + 2 + 2e-7 * (steps % 3 - 1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), Noisy(), nn.Linear(8, 3)).eval()
    halved(model, spare=("2",))
    x = torch.randn(7, 6)
    shrunk = shrink(model, x)
    assert shrunk.model[2].in_features == 4
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_a_layer_without_a_living_filter_stays() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(6, 3)
            self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.b(torch.relu(self.a(x)))
            return self.out(x + self.d(torch.relu(self.c(x))))

    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(4, 6)
    with torch.no_grad():
        for part in (model.a.weight, model.a.bias, model.c.weight[:2], model.c.bias[:2]):
            part.zero_()
    shrunk = shrink(model, x)
    assert shrunk.left == {"a": "it has no living filter left"}
    assert shrunk.model.c.out_features == 6
    torch.testing.assert_close(shrunk.model(x), model(x))


def test_a_model_that_cannot_be_run_is_refused_with_the_reason() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no answer here")

    with pytest.raises(InputError, match=r"inner: the model could not be run .*no answer here"):
        shrink(halved(Broken(), spare=("out",)), torch.randn(4, 6))


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_heads_and_feed_forwards_of_a_language_model_are_cut(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = halved(getattr(transformers, f"{kind}ForCausalLM")(config), spare=("lm_head",))
    inputs = {"input_ids": torch.randint(3, 64, (2, 24))}
    shrunk = shrink(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model(**inputs).logits, model(**inputs).logits)
    assert count_parameters(shrunk.model) < 0.8 * count_parameters(model)
    attention = {name for name, _ in model.named_modules() if name.endswith(("q_proj", "k_proj", "v_proj"))}
    assert attention
    assert all(
        shrunk.model.get_submodule(name).out_features < model.get_submodule(name).out_features
        for name in attention
    )
    assert shrunk.model.config.num_key_value_heads == 1
