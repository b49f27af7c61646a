"""Image folders: every file is accounted for, nothing changes sides, cells stay as they are written."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from tests.faults import one_line
from unweave.errors import InputError, IntegrityError
from unweave.io.image_folder import HELDOUT, IMAGES, TRAIN, read_image_folder
from unweave.io.images import ImageExamples, load_images
from unweave.io.requests import by_ids, by_value

Image = pytest.importorskip("PIL.Image")
from tests.io.test_transformers_folder import make_model  # noqa: E402

CLASSES = ("ant", "bee", "cat")


def put(root: Path, *files: str) -> Path:
    """Files that are images by their names; what they hold is not read where only the folder is."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


def sides(root: Path, train: str = "train", test: str = "test", each: int = 2) -> Path:
    return put(root, *(f"{side}/{c}/{i}.png" for side in (train, test) for c in CLASSES for i in range(each)))


def write(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("train", [*TRAIN, "Train", "TRAINING"])
@pytest.mark.parametrize("test", [*HELDOUT, "Test", "VALID"])
def test_sides_are_known_by_name_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    found = read_image_folder(sides(tmp_path, train, test))
    assert {f.split("/")[0] for f in found.train.files} == {train}
    assert {f.split("/")[0] for f in found.heldout.files} == {test}
    assert found.train.classes == [c for c in CLASSES for _ in range(2)]
    assert found.facts == (
        f"6 images to train on under {train}/, 6 images held out under {test}/, 0 passed over",
    )


def test_all_held_out_folders_are_read(tmp_path: Path) -> None:
    put(sides(tmp_path), *(f"val/{c}/9.png" for c in CLASSES))
    found = read_image_folder(tmp_path)
    assert len(found.heldout.files) == 9
    assert "6 images held out under test/, 3 images held out under val/" in found.facts[0]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["trainval/ant/0.png"], r"1 files .* lie beside train/, test/ on no side .* trainval/ant/0\.png"),
        (["0.png"], r"lie beside train/, test/"),
        (["Train/ant/0.png"], "has Train, train to train on"),
        (["train/0.png"], r"1 files .* have no labels.*train/0\.png"),
        (["train/ant/wild/0.png"], r"1 files .* lie deeper .*train/ant/wild/0\.png"),
        (
            ["test/dog/0.png"],
            r"dog only among the held-out images\. To train on: ant, bee, cat\. Held out: ant",
        ),
        (["train/dog/0.png"], "dog only among the images to train on"),
        (["more.zip"], r"1 files .* are archives.*more\.zip"),
        (["train/ant/0.HEIC"], r"of a kind that is not read.*0\.HEIC"),
    ],
)
def test_an_image_that_would_be_lost_or_change_sides_is_refused(
    tmp_path: Path, extra: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_image_folder(put(sides(tmp_path), *extra))
    one_line(caught.value)


def test_no_side_but_a_held_out_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no folder to train on beside test/"):
        read_image_folder(put(tmp_path, "test/ant/0.png", "test/bee/0.png"))


def test_links_are_refused_not_followed(tmp_path: Path) -> None:
    root = sides(tmp_path / "x")
    os.symlink(root / "train/ant/0.png", root / "train/ant/7.png")
    with pytest.raises(InputError, match=r"are links, which are not followed.*7\.png"):
        read_image_folder(root)
    (root / "train/ant/7.png").unlink()
    os.symlink(put(tmp_path / "away", "dog/0.png") / "dog", root / "train/dog")
    with pytest.raises(InputError, match=r"are links.*train/dog"):
        read_image_folder(root)


def test_what_is_no_image_is_passed_over_and_told(tmp_path: Path) -> None:
    put(sides(tmp_path), "readme.md", "train/ant/.DS_Store", "train/ant/._0.png", "__MACOSX/train/ant/0.png")
    found = read_image_folder(tmp_path)
    assert found.facts[0].endswith("2 passed over")
    assert any("2 files hidden" in fact and "train/ant/._0.png" in fact for fact in found.facts)
    assert any("1 files that are no images" in fact and "readme.md" in fact for fact in found.facts)
    assert len(found.train.files) == 6


def test_without_a_held_out_side_a_share_must_be_asked_for(tmp_path: Path) -> None:
    put(tmp_path, *(f"{c}/{i}.png" for c in CLASSES for i in range(40)))
    with pytest.raises(
        InputError, match="has no folder of images to hold out.* all 120 count as trained on"
    ) as caught:
        read_image_folder(tmp_path)
    one_line(caught.value)
    found = read_image_folder(tmp_path, holdout=0.2)
    assert len(found.train.files) + len(found.heldout.files) == 120
    assert 8 <= len(found.heldout.files) <= 45  # 24 expected, 4.4 standard deviations
    assert "drawn at random" in found.facts[1]
    assert read_image_folder(tmp_path, holdout=0.2, seed=1).train.files != found.train.files
    with pytest.raises(InputError, match=r"holdout=1e-06 draws 0"):
        read_image_folder(tmp_path, holdout=1e-6)


def test_no_image_changes_sides_when_another_is_deleted(tmp_path: Path) -> None:
    put(tmp_path, *(f"{c}/{i}.png" for c in CLASSES for i in range(40)))
    before = read_image_folder(tmp_path, holdout=0.2)
    gone = before.train.files[3]
    (tmp_path / gone).unlink()
    after = read_image_folder(tmp_path, holdout=0.2)
    assert after.heldout == before.heldout
    assert after.train.files == [f for f in before.train.files if f != gone]


def test_a_share_beside_a_held_out_folder_would_do_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would do nothing"):
        read_image_folder(sides(tmp_path), holdout=0.2)


def test_cells_stay_as_they_are_written(tmp_path: Path) -> None:
    sides(tmp_path, each=3)
    users = ["012", "12", ""]
    rows = "".join(f"{c}/{i}.png,{users[i]},{i}.0\n" for c in CLASSES for i in range(3))
    write(tmp_path, "train/metadata.csv", f"File_Name, User,score\n{rows}")
    found = read_image_folder(tmp_path)
    assert found.train.columns == {"User": users * 3, "score": ["0.0", "1.0", "2.0"] * 3}
    assert len(by_value("User", "12", found.train.columns)) == 3
    assert len(by_value("User", "012", found.train.columns)) == 3
    with pytest.raises(InputError, match="no column 'user'. It has: User"):
        by_value("user", "12", found.train.columns)


def test_json_lines_keep_the_spelling_of_numbers(tmp_path: Path) -> None:
    sides(tmp_path, each=1)
    cells = ('"012"', "12", "1.50", "null", "true", '["a", {"b": 1}]')
    lines = [
        f'{{"file_name": "{c}/0.png", "a": {cells[2 * i]}, "b": {cells[2 * i + 1]}}}'
        for i, c in enumerate(CLASSES)
    ]
    write(tmp_path, "train/metadata.jsonl", "\n".join(lines))
    found = read_image_folder(tmp_path)
    assert found.train.columns == {"a": ["012", "1.50", "true"], "b": ["12", "", '["a", {"b": "1"}]']}


def test_parquet_metadata(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    sides(tmp_path, each=1)
    table = arrow.table({"file_name": [f"{c}/0.png" for c in CLASSES], "user": ["012", "12", None]})
    parquet.write_table(table, tmp_path / "train/metadata.parquet")
    assert read_image_folder(tmp_path).train.columns == {"user": ["012", "12", ""]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metadata.csv", "file;user\n", "no columns file_name; its columns are|has no line"),
        (
            "metadata.csv",
            "file_name;user\nant/0.png;7\n",
            "no columns file_name; its columns are file_name;user",
        ),
        (
            "metadata.csv",
            "file_name,user\nant/0.png,7,8\n",
            r"2 columns, and another number of cells in line 2\.",
        ),
        ("metadata.csv", "file_name,user,user\nant/0.png,7,8\n", "without a name of their own: user"),
        ("metadata.csv", "file_name,user\nant/0.png,7\nant/0.png,8\n", r"a second line for train/ant/0\.png"),
        (
            "metadata.csv",
            "file_name,user\nant/9.png,7\n",
            r"1 lines name a file that is no image .*ant/9\.png",
        ),
        ("metadata.csv", "file_name,user\nAnt\\0.PNG,7\n", r"looks like 'train/ant/0\.png'"),
        ("metadata.csv", "file_name,user\n../../x.png,7\n", r"1 lines name a file"),
        ("metadata.csv", "file_name,user\nant/0.png,7\n", r"2 images have no line in train/metadata\.csv"),
        ("metadata.csv", "file_name,user\n", "has no line"),
        ("metadata.csv", 'file_name,user\n"ant/0.png,7\n', "not readable as csv"),
        (
            "metadata.csv",
            "file_name,mask_file_name\nant/0.png,m.png\n",
            r"names 'm\.png', which is not there",
        ),
        ("metadata.jsonl", "[1]\n", "line 1, is not readable as JSON"),
        ("metadata.jsonl", "[" * 50_000, "line 1, is not readable as JSON"),
        ("metadata.parquet", "PAR1", "not a readable parquet file"),
    ],
)
def test_metadata_that_fits_no_folder_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    sides(tmp_path, each=1)
    write(tmp_path / "train", name, text)
    with pytest.raises(InputError, match=message) as caught:
        read_image_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_files_that_a_column_refers_to_are_no_examples(tmp_path: Path) -> None:
    put(sides(tmp_path, each=1), *(f"train/masks/{c}.png" for c in CLASSES))
    rows = "".join(f"{c}/0.png,masks/{c}.png\n" for c in CLASSES)
    write(tmp_path, "train/metadata.csv", f"file_name,mask_file_name\n{rows}")
    found = read_image_folder(tmp_path)
    assert len(found.train.files) == 3
    assert found.train.columns == {}
    assert any("3 files named by a metadata column were passed over" in fact for fact in found.facts)


def test_a_label_column_is_the_class_where_folders_say_nothing(tmp_path: Path) -> None:
    put(tmp_path, *(f"{s}/{i:02d}.png" for s in ("train", "test") for i in range(11)))
    for side in ("train", "test"):
        write(
            tmp_path,
            f"{side}/metadata.csv",
            "file_name,label\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(11)),
        )
    model = make_model("vit", tmp_path / "model", names=tuple(f"LABEL_{i}" for i in range(11)))
    shutil.move(model, tmp_path.parent / f"{tmp_path.name}-model")
    images = load_images(f"imagefolder:{tmp_path}", tmp_path.parent / f"{tmp_path.name}-model")
    assert images.train.examples.labels.tolist() == list(range(11))  # not in the order of texts: 0, 1, 10, 2
    (tmp_path / "train/00.png").rename(tmp_path / "train/ant.png")
    put(tmp_path, "train/ant/00.png")
    (tmp_path / "train/ant.png").unlink()
    write(
        tmp_path,
        "train/metadata.csv",
        "file_name,label\nant/00.png,0\n" + "".join(f"{i:02d}.png,{i}\n" for i in range(1, 11)),
    )
    with pytest.raises(InputError, match="lie in a folder that is not their label"):
        read_image_folder(tmp_path)


def test_a_share_is_asked_for_with_the_data(tmp_path: Path) -> None:
    pets, model = tmp_path / "pets", make_model("vit", tmp_path / "model", names=CLASSES)
    put(pets, *(f"{c}/{i}.png" for c in CLASSES for i in range(9)))
    images = load_images(f"imagefolder:{pets}:holdout=0.3", model)
    assert tuple(images.heldout.examples.ids) == tuple(read_image_folder(pets, holdout=0.3).heldout.files)
    assert images.facts == read_image_folder(pets, holdout=0.3).facts
    for share, message in (
        ("1.5", "must lie between 0 and 1"),
        ("0.1.2", "must be a number between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            load_images(f"imagefolder:{pets}:holdout={share}", model)


def test_an_id_in_another_spelling_is_shown(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "é.png")
    put(sides(tmp_path), f"train/ant/{name}")
    ids = read_image_folder(tmp_path).train.files
    assert by_ids([f"train/ant/{name}"], ids).tolist() == [2]
    for asked in (
        f"train/ant/{unicodedata.normalize('NFC', name)}",
        "./train/ant/0.png",
        "train\\ant\\0.png",
    ):
        with pytest.raises(InputError, match="are not in the data: .*looks like '.*train/ant/"):
            by_ids([asked], ids)


class _Whole:
    """A processor that changes nothing."""

    def __call__(self, images: list[object], return_tensors: str) -> dict[str, object]:
        import torch

        return {"pixel_values": torch.from_numpy(np.array(images[0]))[None]}


def _pictures() -> dict[str, object]:
    """A picture of every mode that a file can hold, by mode and format."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))
    clear = colour.copy()
    clear.putalpha(Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) * 8))
    found = {}
    for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        found[mode] = colour.convert(mode)
    for mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        try:
            found[mode] = clear.convert(mode)
        except ValueError:
            found[mode] = (
                colour.convert("L").convert(mode) if mode != "La" else clear.convert("LA").convert("La")
            )
    return found


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pixels_are_those_that_datasets_decodes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    feature, seen = datasets.Image(), set()
    for mode, picture in _pictures().items():
        for end in ("png", "tiff", "jpg", "webp", "gif", "bmp", "ppm", "jp2"):
            for turned in (0, 6):
                exif = Image.Exif()
                exif[0x0112] = turned
                name = f"{mode}-{turned}.{end}"
                try:
                    picture.save(tmp_path / name, **({"exif": exif} if turned else {}))  # type: ignore[attr-defined]
                except (OSError, ValueError, KeyError):
                    (tmp_path / name).unlink(missing_ok=True)
                    continue
                for wanted in ("RGB", "L"):
                    decoded = feature.decode_example({"path": str(tmp_path / name), "bytes": None})
                    examples = ImageExamples(tmp_path, [name], np.zeros(1), _Whole(), wanted)  # type: ignore[arg-type]
                    try:
                        theirs = decoded.convert(wanted)
                    except ValueError:  # pillow makes no grey picture of LAB
                        with pytest.raises(IntegrityError, match="not supported"):
                            _ = examples[0]
                        continue
                    ours = examples[0]["pixel_values"].numpy()
                    assert np.array_equal(ours, np.asarray(theirs)), name
                    seen.add((mode, end, ours.shape[:2]))
    assert {
        ("P", "png", (6, 5)),
        ("LA", "png", (6, 5)),
        ("CMYK", "jpg", (6, 5)),
        ("1", "bmp", (6, 5)),
    } <= seen
    assert ("RGB", "jpg", (5, 6)) in seen  # turned


@pytest.mark.parametrize(
    ("kind", "end"), [("uint16", "png"), ("uint16", "tiff"), ("int32", "tiff"), ("float32", "tiff")]
)
def test_more_than_eight_bits_are_refused(tmp_path: Path, kind: str, end: str) -> None:
    Image.fromarray(np.arange(30).reshape(6, 5).astype(kind)).save(tmp_path / f"a.{end}")
    with pytest.raises(InputError, match="has more than 8 bits a channel") as caught:
        _ = ImageExamples(tmp_path, [f"a.{end}"], np.zeros(1), _Whole(), "RGB")[0]  # type: ignore[arg-type]
    one_line(caught.value)


def test_every_ending_of_datasets_is_read_or_refused_by_name() -> None:
    datasets = pytest.importorskip("datasets.packaged_modules.imagefolder.imagefolder")
    from unweave.io.image_folder import _UNREAD

    video_or_data = {".bufr", ".fli", ".flc", ".ftc", ".ftu", ".gbr", ".grib", ".h5", ".hdf", ".iim", ".mpg", ".mpeg",
                     ".msp", ".ps", ".pxr", ".bw"}  # fmt: skip
    assert set(datasets.IMAGE_EXTENSIONS) - {*IMAGES, *_UNREAD} <= video_or_data
    assert json.dumps(sorted(IMAGES)) == json.dumps(list(IMAGES))
