from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import damages, each_full_disk, largest_file, one_line, partials
from unweave import Mask
from unweave.errors import InputError, IntegrityError, StorageError
from unweave.io.masks import load_mask, save_mask


def _mask(*shapes: tuple[int, ...], seed: int = 0) -> Mask:
    rng = torch.Generator().manual_seed(seed)
    return Mask(
        {f"layer{i}.weight": torch.rand(shape, generator=rng) < 0.3 for i, shape in enumerate(shapes)}
    )


def test_exact_bits_of_a_small_mask(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_mask(
        Mask({"w": torch.tensor([True, False, True, True, False, False, False, True, True])}), tmp_path / "m"
    )
    assert load_file(tmp_path / "m")["w"].tolist() == [0b10110001, 0b10000000]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=4), st.integers(0, 99))
def test_any_shapes_come_back(tmp_path: Path, shapes: list[tuple[int, ...]], seed: int) -> None:
    mask = _mask(*shapes, seed=seed)
    save_mask(mask, tmp_path / "m")
    loaded = load_mask(tmp_path / "m")
    assert list(loaded.keep) == list(mask.keep)
    for name, alive in mask.keep.items():
        assert torch.equal(loaded.keep[name], alive)
        assert loaded.keep[name].shape == alive.shape


def test_size_is_a_thirty_second_of_float32(tmp_path: Path) -> None:
    shapes = [(64, 64, 3, 3)] * 20 + [(512, 1001)] * 4  # 2.8 million weights, as a ResNet's
    mask = _mask(*shapes)
    save_mask(mask, tmp_path / "m")
    header = 8 + int.from_bytes((tmp_path / "m").read_bytes()[:8], "little")
    float32 = 4 * mask.size()
    assert (tmp_path / "m").stat().st_size - header <= float32 / 32 + len(
        shapes
    )  # a last byte may be part full
    assert (tmp_path / "m").stat().st_size < 1.02 * float32 / 32
    assert load_mask(tmp_path / "m") == mask


@pytest.mark.parametrize("damage", list(damages(b"0123456789")))
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "m.safetensors"
    save_mask(_mask((5, 7), (3,)), path)
    path.write_bytes(damages(path.read_bytes())[damage])
    with pytest.raises(IntegrityError, match="not a whole mask file") as caught:
        load_mask(path)
    assert str(path) in one_line(caught.value)


def test_every_byte_is_guarded(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_mask(_mask((4, 6)), path)
    whole = path.read_bytes()
    expected = load_mask(path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert load_mask(path) == expected  # a bit of white space or of an unread word may differ
        except IntegrityError:
            pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_give_our_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(IntegrityError):
        load_mask(tmp_path / "m")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["w", "shapes", "sha256", "x"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_JSON, st.booleans())
def test_any_header_gives_our_error(tmp_path: Path, header: object, right_digest: bool) -> None:
    import json

    from safetensors.torch import save_file

    from unweave.io.masks import _digest

    bits = {"w": torch.tensor([255], dtype=torch.uint8)}
    if right_digest:
        header = {"shapes": {"w": header}, "sha256": _digest(bits)}
    save_file(bits, tmp_path / "m", metadata={"unweave.masks.mask": json.dumps(header)})
    try:
        mask = load_mask(tmp_path / "m")
        assert mask.size() <= 8
    except IntegrityError:
        pass


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no mask file"):
        load_mask(tmp_path / "m")


def test_full_disk_keeps_the_old_mask(tmp_path: Path) -> None:
    old, new = _mask((64, 64)), _mask((64, 64), seed=1)
    save_mask(old, tmp_path / "other")
    for failing in each_full_disk(lambda: save_mask(new, tmp_path / "other")):
        save_mask(old, tmp_path / "other")
        with pytest.raises(StorageError, match="No space left on device") as caught:
            failing()
        one_line(caught.value)
        assert load_mask(tmp_path / "other") in (old, new)
        assert not partials(tmp_path)
    save_mask(old, tmp_path / "m")
    for size in (0, 100, 500):
        with largest_file(size), pytest.raises(StorageError) as caught:
            save_mask(new, tmp_path / "m")
        one_line(caught.value)
        assert load_mask(tmp_path / "m") == old
        assert not partials(tmp_path)


def test_another_shape_of_as_many_bits_is_damage(tmp_path: Path) -> None:
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    from unweave.io.masks import _digest

    path = tmp_path / "mask.safetensors"
    save_mask(Mask({"w": torch.eye(4, 6).bool()}), path)
    with safe_open(path, framework="pt") as file:
        (key,) = file.metadata()
        header = json.loads(file.metadata()[key])
    bits = load_file(path)
    save_file(bits, path, metadata={key: json.dumps({**header, "shapes": {"w": [6, 4]}})})
    with pytest.raises(IntegrityError, match="differ from those that were written"):
        load_mask(path)
    former = {"shapes": {"w": [4, 6]}, "sha256": _digest(bits)}  # earlier versions hashed the bits alone
    save_file(bits, path, metadata={key: json.dumps(former)})
    assert torch.equal(load_mask(path).keep["w"], torch.eye(4, 6).bool())
