from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unweave import seeded
from unweave.errors import InputError, IntegrityError
from unweave.interpret import SparseAutoencoder, load, save

GATES = ("topk", "jumprelu", "gated")


def made(gate: str) -> SparseAutoencoder:
    sae = SparseAutoencoder(5, 12, gate=gate, k=3 if gate == "topk" else None, rng=seeded(0))  # type: ignore[arg-type]
    with torch.no_grad():
        for i, p in enumerate((*sae.parameters(), *sae.buffers())):
            p.add_(0.3 * torch.randn(p.shape, generator=seeded(i)))
        if gate == "jumprelu":
            sae.get_buffer("threshold").abs_()
    return sae


def slowly(sae: SparseAutoencoder, x: Tensor) -> Tensor:
    """Codes as the equations have them, one number after another, in float64."""
    w = {name: t.double() for name, t in sae.state_dict().items()}
    codes = torch.zeros(len(x), 12, dtype=torch.float64)
    for i, v in enumerate(x.double()):
        for j in range(12):
            a = sum((v[d] - w["b_dec"][d]) * w["W_enc"][d, j] for d in range(5))
            if sae.gate == "gated":
                m = a * w["r_mag"][j].exp() + w["b_mag"][j]
                codes[i, j] = max(m, 0) if a + w["b_gate"][j] > 0 else 0
            else:
                codes[i, j] = max(a + w["b_enc"][j], 0)
                if sae.gate == "jumprelu" and codes[i, j] <= w["threshold"][j]:
                    codes[i, j] = 0
        if sae.gate == "topk":
            codes[i, codes[i].argsort()[:-3]] = 0
    return codes


@pytest.mark.parametrize("gate", GATES)
def test_codes_are_those_of_the_equations(gate: str) -> None:
    sae, x = made(gate), torch.randn(7, 5, generator=seeded(9))
    codes = slowly(sae, x)
    assert codes.any()
    assert torch.allclose(sae.encode(x).double(), codes, atol=1e-5)
    assert torch.allclose(sae(x).double(), codes @ sae.W_dec.double() + sae.b_dec.double(), atol=1e-5)
    assert torch.allclose(sae.encode(x)[2:3], sae.encode(x[2:3]), atol=1e-6), "codes depend on the batch"


@pytest.mark.parametrize("gate", GATES)
def test_is_written_in_sae_lens_layout_and_read_back(gate: str, tmp_path: Path) -> None:
    sae = made(gate)
    save(sae, tmp_path / "sae", layer="blocks.1", model="tiny")
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    told = json.loads((tmp_path / "sae/cfg.json").read_text())
    assert (told["architecture"], told["d_in"], told["d_sae"], told["dtype"]) == (gate, 5, 12, "float32")
    assert told["metadata"]["hook_name"] == "blocks.1"
    shapes = {k: tuple(t.shape) for k, t in load_file(tmp_path / "sae/sae_weights.safetensors").items()}
    one = {"topk": ("b_enc",), "jumprelu": ("b_enc", "threshold"), "gated": ("b_gate", "b_mag", "r_mag")}
    assert shapes == {"W_enc": (5, 12), "W_dec": (12, 5), "b_dec": (5,)} | dict.fromkeys(one[gate], (12,))
    again, record = load(tmp_path / "sae")
    x = torch.randn(7, 5, generator=seeded(9))
    assert torch.equal(again.encode(x), sae.encode(x))
    assert record["model_name"] == "tiny"


def test_what_sae_lens_writes_is_read_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sae"
    save(made("topk"), folder)
    config, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    told = json.loads(config.read_text())

    def rewrite(**values: object) -> None:
        config.write_text(json.dumps({**told, "metadata": {}, **values}))

    tensors = load_file(weights)
    rewrite(architecture="standard")
    x = torch.randn(4, 5, generator=seeded(1))
    relu = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]).relu()
    assert torch.allclose(load(folder)[0].encode(x), relu, atol=1e-6)
    rewrite(architecture="temporal")
    with pytest.raises(
        InputError, match="architecture 'temporal'; read are topk, jumprelu, gated and standard"
    ):
        load(folder)
    rewrite(normalize_activations="layer_norm")
    with pytest.raises(InputError, match="normalize_activations='layer_norm', which would change"):
        load(folder)
    rewrite(rescale_acts_by_decoder_norm=True)
    with pytest.raises(InputError, match="rescale_acts_by_decoder_norm=True"):
        load(folder)
    rewrite(d_sae=13)
    with pytest.raises(InputError, match="does not fit cfg.json: W_dec"):
        load(folder)
    rewrite(d_sae="many")
    with pytest.raises(InputError, match="does not say d_in and d_sae"):
        load(folder)
    config.write_text("{")
    with pytest.raises(IntegrityError, match="no JSON"):
        load(folder)
    config.write_text(json.dumps(told))
    save_file({**tensors, "b_dec": tensors["b_dec"] + 1}, weights)
    with pytest.raises(IntegrityError, match="not the file that cfg.json records"):
        load(folder)
    with pytest.raises(InputError, match="is no sparse autoencoder"):
        load(tmp_path)


def test_refuses_other_widths_and_k_out_of_range() -> None:
    with pytest.raises(InputError, match=r"reads activations of width 5; got \(2, 6\)"):
        made("topk").encode(torch.ones(2, 6))
    for k in (0, 13, None):
        with pytest.raises(InputError, match="k must be from 1 to 12"):
            SparseAutoencoder(5, 12, k=k, rng=seeded(0))
    for k in (1, 12):
        codes = SparseAutoencoder(5, 12, k=k, rng=seeded(0)).encode(torch.ones(2, 5))
        assert 0 < int((codes != 0).sum(1).max()) <= k
    with pytest.raises(InputError, match="at least 1; got 5 and 0"):
        SparseAutoencoder(5, 0, k=1, rng=seeded(0))
    with pytest.raises(InputError, match="rng must be"):
        SparseAutoencoder(5, 12, k=1, rng=None)  # type: ignore[arg-type]
