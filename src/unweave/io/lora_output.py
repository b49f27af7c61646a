"""The change of an edited pipeline's linear layers as a low-rank adapter that plain diffusers loads.

For a layer whose weights moved by D = W' - W, [out, in], the best adapter of rank r is that of the r largest singular
values (Eckart and Young 1936): D ~ B A, with B = U_r S_r^(1/2), [out, r], and A = S_r^(1/2) V_r^T, [r, in]. The rank is
one for all layers, the smallest that leaves in none of them more than `error` of its change, in Frobenius' norm: with
one rank and no alpha every version of diffusers scales by one. Biases that moved (ESD-x trains some) are peft's
`lora_bias`: loaded and used, but `fuse_lora` cannot merge them into layers that have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Linear

from ..errors import InputError
from ..models.text_to_image import TextToImage, Weights
from .files import write_tensors

FILE = "pytorch_lora_weights.safetensors"
"""What `pipeline.load_lora_weights(folder)` looks for."""
ERROR = 0.01


@dataclass(frozen=True)
class Adapter:
    """A change of linear layers, of low rank.

    Attributes:
        layers: layer's name in the denoiser -> (A [rank, in], B [out, rank], the bias's change [out] or None), float32.
        rank: of every layer.
        error: largest share of a layer's change that is left out, in Frobenius' norm.
        folder: of the denoiser in a pipeline of diffusers.
    """

    layers: Mapping[str, tuple[Tensor, Tensor, Tensor | None]]
    rank: int
    error: float
    folder: str

    def merged(self, original: TextToImage) -> TextToImage:
        """A copy of the pipeline that the change was taken from, with the adapter in its weights."""
        made = original.editable()
        modules = dict(made.denoiser.named_modules())
        with torch.no_grad():
            for name, (a, b, shift) in self.layers.items():
                layer = modules[name]
                assert isinstance(layer, Linear)
                layer.weight.add_((b.double() @ a.double()).to(layer.weight))
                if shift is not None:
                    assert layer.bias is not None
                    layer.bias.add_(shift.to(layer.bias))
        return made

    def save(self, folder: Path) -> None:
        """Write it for `pipeline.load_lora_weights(folder)`, whole or not at all.

        Raises:
            StorageError: if it cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        shifted = any(shift is not None for _, _, shift in self.layers.values())
        for name, (a, b, shift) in self.layers.items():
            at = f"{self.folder}.{name}"
            tensors |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
            if shifted:  # peft has biases in all layers or in none
                tensors[f"{at}.lora_B.bias"] = b.new_zeros(len(b)) if shift is None else shift
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_tensors(Path(folder) / FILE, {n: t.contiguous() for n, t in tensors.items()}, {"format": "pt"})


def adapter_of(edited: TextToImage, original: TextToImage, *, error: float = ERROR) -> Adapter:
    """What an edit changed, as a low-rank adapter.

    Args:
        edited: a copy of `original`.
        original: before the edit.
        error: share of each layer's change that the adapter may leave out, in Frobenius' norm.

    Raises:
        InputError: if something else than linear layers of the denoiser changed, or nothing did.
    """
    if not 0 < error < 1:
        raise InputError(f"an adapter's error is a share of the change, above 0 and below 1; got {error}.")
    before, after = dict(original.named_parameters()), dict(edited.named_parameters())
    modules = dict(edited.denoiser.named_modules())
    moved: dict[str, Tensor] = {}
    for name, weight in after.items():
        if weight is before[name] or torch.equal(weight, before[name]):
            continue
        require_linear(edited, [name])
        moved[name.removeprefix("denoiser.")] = (
            weight.detach().double() - before[name].detach().double()
        ).cpu()
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in moved))
    if not names:
        raise InputError("the edit changed no weight, so there is no adapter to write.")
    parts = {
        n: torch.linalg.svd(moved[f"{n}.weight"], full_matrices=False)
        for n in names
        if f"{n}.weight" in moved
    }
    rank = max([1, *(_rank(s, error) for _, s, _ in parts.values())])
    layers, left = {}, 0.0
    for name in names:
        layer = modules[name]
        assert isinstance(layer, Linear)
        a, b = torch.zeros(rank, layer.in_features), torch.zeros(layer.out_features, rank)
        if name in parts:
            u, s, v = parts[name]
            r, root = min(rank, len(s)), s[:rank].sqrt()
            a[:r], b[:, :r] = (root[:, None] * v[:r]).float(), (u[:, :r] * root).float()
            left = max(left, float(s[r:].norm() / s.norm()))
        shift = moved.get(f"{name}.bias")
        layers[name] = a, b, None if shift is None else shift.float()
    return Adapter(layers, rank, left, original.kind)


def require_loadable(model: TextToImage, trained: Weights | None) -> None:
    """Raise if no adapter can hold what an edit will change, before it begins.

    Args:
        model: to be edited.
        trained: kind of weights that the edit trains; None if it does not say.

    Raises:
        InputError: if diffusers loads no adapter into such a pipeline, or other layers than linear ones are trained.
    """
    if model.layout in ("joint", "packed"):
        kind = {"joint": "Stable Diffusion 3", "packed": "Flux"}[model.layout]
        raise InputError(f"adapters for {kind} are not written; leave --output as pipeline.")
    if model.layout == "transformer":
        kind = model.index.get("_class_name", "PixArtAlphaPipeline")
        raise InputError(f"diffusers loads no adapter into {kind}; leave --output as pipeline.")
    if trained is not None:
        require_linear(model, list(model.weights(trained)))


def require_linear(model: TextToImage, names: list[str]) -> None:
    """Raise unless these parameters are weights and biases of the denoiser's linear layers.

    Raises:
        InputError: naming the first that is not.
    """
    linear = {f"denoiser.{n}" for n, m in model.denoiser.named_modules() if type(m) is Linear}
    odd = next((n for n in names if n.rpartition(".")[0] not in linear), None)
    if odd is not None:
        raise InputError(
            f"the edit changes {odd}, which is no linear layer of the denoiser; an adapter (--output lora) holds such "
            "layers only. Train the cross-attention alone (train cross or cross_kv), or leave --output as pipeline."
        )


def _rank(s: Tensor, error: float) -> int:
    """How many of the singular values, the largest first, leave at most this share of their norm."""
    tails = s.square().flip(0).cumsum(0).flip(0).sqrt()  # tails[r]: what is left out at rank r
    return int((tails > error * s.norm()).sum())
