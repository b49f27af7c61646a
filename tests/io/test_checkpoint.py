from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from tests.faults import contents, damages, each_full_disk, largest_file, one_line, partials
from unweave import Mask
from unweave.embedded.nets import mlp
from unweave.errors import InputError, IntegrityError, NonFiniteError, StorageError, UnweaveError
from unweave.io.checkpoint import load_into, mask_beside, save_model
from unweave.io.masks import save_mask
from unweave.io.weights import load_weights


def _model(seed: int = 0, hidden: int = 6) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(4, hidden, 3, batch_norm=True)


def _equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) and left[k].dtype == right[k].dtype for k in left
    )


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("empty2", torch.zeros(0, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("place", ["folder", "file.safetensors"])
def test_weights_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype, place: str) -> None:
    model, fresh = _model().to(dtype), _model(1)
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    written = save_model(model, tmp_path / place)
    loaded = load_into(fresh, tmp_path / place)
    assert _equal(loaded, model)
    assert all(torch.equal(before[k], v) for k, v in fresh.state_dict().items())
    assert written == (
        tmp_path / place if place.endswith("safetensors") else tmp_path / place / "model.safetensors"
    )
    assert not partials(tmp_path)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    mask = Mask({"1.weight": torch.tensor([[True, False, True, True]] * 6)})
    for name in "abcdef":
        save_model(mask.apply_(_model()), tmp_path / name, mask=mask)
    assert all(contents(tmp_path / name) == contents(tmp_path / "a") for name in "bcdef")


def test_tied_and_shared_weights(tmp_path: Path) -> None:
    model = _Tied()
    save_model(model, tmp_path)
    names = load_weights(tmp_path)
    assert torch.equal(names["embed.weight"], names["head.weight"])
    loaded = load_into(_Tied(), tmp_path)
    assert _equal(loaded, model)
    assert loaded.head.weight is loaded.embed.weight
    assert (tmp_path / "model.safetensors").stat().st_size < 600  # the tied matrix is there once


def test_overlapping_but_different_views_are_kept_apart(tmp_path: Path) -> None:
    model = nn.Module()
    base = torch.arange(6.0)
    model.register_buffer("a", base)
    model.register_buffer("b", base[:3])
    save_model(model, tmp_path)
    assert load_weights(tmp_path)["b"].tolist() == [0, 1, 2]


def test_mask_and_structure_lie_beside(tmp_path: Path) -> None:
    model = _model()
    mask = Mask({"1.weight": torch.rand(6, 4) < 0.5})
    mask.apply_(model)
    save_model(model, tmp_path / "m", mask=mask)
    assert mask_beside(tmp_path / "m") == mask
    save_model(model, tmp_path / "x.safetensors", mask=mask)
    assert mask_beside(tmp_path / "x.safetensors") == mask
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "x.mask.safetensors", "x.safetensors"]
    save_model(model, tmp_path / "m")  # the old mask goes
    assert mask_beside(tmp_path / "m") is None


def test_a_mask_that_the_model_does_not_obey_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not zero in 1.weight"):
        save_model(_model(), tmp_path, mask=Mask({"1.weight": torch.zeros(6, 4, dtype=torch.bool)}))
    assert not contents(tmp_path)


def test_weights_of_others_must_obey_the_mask_beside_them(tmp_path: Path) -> None:
    model, mask = _model(), Mask({"1.weight": torch.rand(6, 4) < 0.5})
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file)
    save_mask(mask, tmp_path / "mask.safetensors")
    with pytest.raises(InputError, match="the mask beside it disagree.* not zero in 1.weight"):
        load_into(_model(1), file)
    save_file(mask.apply_(model).state_dict(), file)
    assert _equal(load_into(_model(1), file), model)


@pytest.mark.parametrize("beside", ["mask.safetensors", "structure.json"])
def test_what_our_weights_were_written_without_does_not_belong_beside_them(
    tmp_path: Path, beside: str
) -> None:
    save_model(_model(), tmp_path)
    (tmp_path / beside).write_text("{}")
    with pytest.raises(IntegrityError, match=f"{beside} does not belong to model.safetensors"):
        load_into(_model(1), tmp_path)


def test_structure_is_applied_on_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import unweave.io.structure as structure_module

    def narrow_(model: nn.Module, record: dict[str, int]) -> nn.Module:
        model[0] = nn.Linear(4, record["hidden"])
        model[1] = nn.Linear(record["hidden"], 3)
        return model

    monkeypatch.setattr(structure_module, "restructure_", narrow_)
    small, full = (
        nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3)),
        nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)),
    )
    save_model(small, tmp_path, structure={"hidden": 2})
    assert _equal(load_into(full, tmp_path), small)
    assert full[0].weight.shape == (6, 4)
    (tmp_path / "structure.json").write_text('{"hidden": 3}')
    with pytest.raises(IntegrityError, match="belongs to another model"):
        load_into(full, tmp_path)
    (tmp_path / "structure.json").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        load_into(full, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "layers": 3}', "[" * 100_000, '"x"'])
def test_a_strange_record_of_structure(tmp_path: Path, content: str) -> None:
    save_file(dict(_model().state_dict()), tmp_path / "model.safetensors")
    (tmp_path / "structure.json").write_text(content)
    with pytest.raises(InputError) as caught:
        load_into(_model(), tmp_path)
    one_line(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize("damage", [d for d in damages(b"0123456789") if d != "one bit flipped"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"m{suffix}"
    if suffix == ".safetensors":
        save_file(dict(_model().state_dict()), path)
    else:
        torch.save(_model().state_dict(), path)
    whole = path.read_bytes()
    if damage == "one byte more" and suffix != ".safetensors":
        pytest.skip("a zip archive may be followed by anything")
    path.write_bytes(damages(whole)[damage])
    with pytest.raises(IntegrityError) as caught:
        load_into(_model(), path)
    assert str(path) in one_line(caught.value)


def test_a_flipped_bit_in_our_file_is_caught(tmp_path: Path) -> None:
    path = save_model(_model(), tmp_path)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IntegrityError):
            load_into(_model(), path)


def test_a_record_whose_name_is_damaged_still_seals(tmp_path: Path) -> None:
    path = save_model(_model(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"unweave.model", b"unweave.-odel")[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="the name of its record is damaged"):
        load_into(_model(1), path)


def test_a_flipped_bit_in_a_zip_checkpoint_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    model = nn.Linear(64, 64)
    torch.save(model.state_dict(), path)
    whole = path.read_bytes()
    at = whole.index(model.weight.detach().numpy().tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(IntegrityError):
        load_into(nn.Linear(64, 64), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_non_finite_weights_are_refused(
    tmp_path: Path, value: float, suffix: str, dtype: torch.dtype
) -> None:
    state = {k: v.clone().to(dtype) if v.is_floating_point() else v for k, v in _model().state_dict().items()}
    state["1.weight"][2, 1] = value
    path = tmp_path / f"m{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(IntegrityError, match=r"holds 1 values that are NaN or infinite, in 1\.weight"):
        load_into(_model(), path)
    bad = _model()
    with torch.no_grad():
        bad[1].weight[0, 0] = value
    with pytest.raises(NonFiniteError, match="nothing was written"):
        save_model(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_shapes_and_names(tmp_path: Path) -> None:
    save_model(_model(), tmp_path)
    with pytest.raises(
        InputError, match=r"'1\.weight' is \(6, 4\) in the file and \(7, 4\) in the model \(\d such\)"
    ):
        load_into(_model(hidden=7), tmp_path)
    with pytest.raises(InputError, match="lacks .*has .*which the model lacks"):
        load_into(nn.Linear(4, 3), tmp_path)
    bigger = nn.Sequential(*_model(), nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"lacks 5\.weight, 5\.bias\. "):
        load_into(bigger, tmp_path)
    save_model(bigger, tmp_path)
    with pytest.raises(InputError, match=r"has 5\.bias, 5\.weight, which the model lacks"):
        load_into(_model(), tmp_path)


def test_integers_are_not_taken_for_weights(tmp_path: Path) -> None:
    save_file(
        {"weight": torch.ones(3, 4, dtype=torch.int64), "bias": torch.ones(3)}, tmp_path / "m.safetensors"
    )
    with pytest.raises(InputError, match="torch.int64 in the file"):
        load_into(nn.Linear(4, 3), tmp_path / "m.safetensors")


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
@pytest.mark.parametrize("name", ["m.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_checkpoints(tmp_path: Path, wrapper: str, name: str, legacy: bool) -> None:
    model = _model()
    state = {f"module.{k}": v for k, v in model.state_dict().items()} if wrapper else model.state_dict()
    content = {wrapper: state, "epoch": 3} if wrapper else state
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert _equal(load_into(_model(1), tmp_path / name), model)
    if name == "pytorch_model.bin":
        assert _equal(load_into(_model(1), tmp_path), model)


class _Canary:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


class _Command(_Canary):
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [_Canary, _Command])
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, kind: type, suffix: str, legacy: bool
) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"m{suffix}"
    torch.save({"weight": kind(str(canary))}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(IntegrityError, match="would run .* when read, so it was not read") as caught:
        load_into(nn.Linear(4, 3), path)
    one_line(caught.value)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the bait works: whoever does run it gets the canary
    assert canary.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    import pickle

    canary, path = tmp_path / "canary", tmp_path / "m.pt"
    path.write_bytes(pickle.dumps(_Canary(str(canary))))
    with pytest.raises(IntegrityError):
        load_into(nn.Linear(4, 3), path)
    assert not canary.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": "text"}, {}, {1: torch.ones(2)}, torch.ones(3)])
def test_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(InputError, match="state_dict") as caught:
        load_into(nn.Linear(4, 3), tmp_path / "m.pt")
    one_line(caught.value)


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model at"):
        load_into(_model(), tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds none of model\.safetensors.*it holds: notes\.txt"):
        load_into(_model(), tmp_path)
    with pytest.raises(InputError, match="no weights file by its name"):
        load_into(_model(), tmp_path / "notes.txt")
    with pytest.raises(InputError, match="written as safetensors"):
        save_model(_model(), tmp_path / "m.pt")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from([".safetensors", ".pt", ".bin"]))
def test_any_bytes_give_our_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_into(nn.Linear(2, 2), path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_checkpoint_gives_our_error_or_loads(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / f"m{data.draw(st.sampled_from(['.safetensors', '.pt']))}"
    model = nn.Linear(2, 2)
    save_file(dict(model.state_dict()), path) if path.suffix != ".pt" else torch.save(
        model.state_dict(), path
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        loaded = load_into(nn.Linear(2, 2), path)
        assert all(torch.isfinite(p).all() for p in loaded.parameters())
    except UnweaveError:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["aliases", "sha256", "mask", "structure"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_record_in_the_header_gives_our_error(tmp_path: Path, record: object) -> None:
    save_file(
        dict(nn.Linear(2, 2).state_dict()),
        tmp_path / "m.safetensors",
        metadata={"unweave.model": json.dumps(record)},
    )
    with pytest.raises(IntegrityError):
        load_into(nn.Linear(2, 2), tmp_path / "m.safetensors")


def test_full_disk_keeps_the_old_files(tmp_path: Path) -> None:
    place = tmp_path / "m"

    def write(seed: int) -> nn.Module:
        mask = Mask({"1.weight": torch.rand(6, 4, generator=torch.Generator().manual_seed(seed)) < 0.5})
        model = mask.apply_(_model(seed))
        save_model(model, place, mask=mask, structure={"format": 1, "layers": {}, "of": seed})
        return model

    write(1)
    after = contents(place)
    old = write(0)
    before = contents(place)
    assert all(before[name] != after[name] for name in before)
    for failing in each_full_disk(lambda: write(1)):
        write(0)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            failing()
        one_line(caught.value)
        assert contents(place) in (before, after)  # all old, or (the folder's own fsync failing) all new
        assert not partials(tmp_path)
    for size in (0, 40, 300, 600):
        write(0)
        with largest_file(size), pytest.raises(StorageError) as caught:
            write(1)
        one_line(caught.value)
        assert contents(place) == before
        assert _equal(load_into(_model(2), place), old)


def test_a_shrunk_model_comes_back(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    from unweave.prune.shrink import shrink

    full = _model().eval()
    with torch.no_grad():
        for parameter in (full[1].weight, full[1].bias, full[2].weight, full[2].bias):
            parameter[[1, 4]] = 0
    shrunk = shrink(full, torch.randn(3, 4))
    assert shrunk.model[1].weight.shape == (4, 4)
    save_model(shrunk.model, tmp_path, structure=shrunk.structure)
    loaded = load_into(_model(1), tmp_path).eval()
    assert _equal(loaded, shrunk.model)
    x = torch.randn(5, 4)
    assert torch.allclose(loaded(x), full(x), atol=1e-6)
    (tmp_path / "structure.json").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        load_into(_model(1), tmp_path)
