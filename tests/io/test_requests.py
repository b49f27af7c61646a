from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unweave.errors import EmptyDataError, InputError, MissingExtraError
from unweave.io.requests import by_classes, by_ids, by_value, read_ids

ANY_FILE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# to go\n\n7\n  b c \r\n7a\n\n#9\n"),
        ("a.TXT", b"\xef\xbb\xbf7\nb c\r7a"),
        ("a.csv", "name,id\nx,7\ny, b c\n\n,7a\n"),
        ("a.csv", "id\n7\nb c\n7a\n"),
        ("a.csv", '7\n"b c"\n7a\n'),
    ],
)
def test_reads_ids(tmp_path: Path, name: str, content: str | bytes) -> None:
    assert read_ids(write(tmp_path, name, content)) == ["7", "b c", "7a"]


def test_reads_quoted_commas(tmp_path: Path) -> None:
    assert read_ids(write(tmp_path, "a.csv", 'id,n\n"a,b",1\n')) == ["a,b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "holds no id"),
        ("a.txt", "# nothing\n\n", "holds no id"),
        ("a.csv", "", "holds no id"),
        ("a.csv", "id\n", "holds no id"),
        ("a.csv", "name,place\nx,y\n", "none is named id.*name, place"),
        ("a.csv", "x,id\n1,2\n3\n4,\n", "2 rows.*row 2, row 3 "),
        ("a.csv", 'id\n"open\n', "not readable as csv"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8 text .byte 0."),
        ("a.txt", b"12\x00\x01", "binary"),
        ("a.csv", b"id\n\x89PNG", "not UTF-8"),
        ("a.xlsx", "1", r"must end in .txt, .csv, .parquet; got '.xlsx'"),
        ("ids", "1", "must end in"),
    ],
)
def test_refuses_unreadable_files(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_ids(write(tmp_path, name, content))


def test_refuses_absent_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "none.txt", tmp_path / "folder.txt", Path("a\0b.txt")):
        with pytest.raises(InputError, match="cannot read"):
            read_ids(path)


def test_reads_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def table(**columns: list) -> Path:
        parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    assert read_ids(table(n=[1, 2], id=[7, 9])) == ["7", "9"]
    assert read_ids(table(key=["a", "b"])) == ["a", "b"]
    for columns, message in [
        ({"a": [1], "b": [2]}, "2 columns and none is named id: a, b"),
        ({"id": [1, None]}, "1 ids.*row 1 .None."),
        ({"id": [1.5]}, "neither text nor whole"),
        ({"id": arrow.array([], arrow.int64())}, "holds no id"),
    ]:
        with pytest.raises(InputError, match=message):
            read_ids(table(**columns))
    whole = table(id=list(range(100))).read_bytes()
    for damaged in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], b"PAR1" + b"\0" * 40 + b"PAR1"):
        with pytest.raises(InputError, match="parquet"):
            read_ids(write(tmp_path, "b.parquet", damaged))


@ANY_FILE
@given(content=st.binary(max_size=300), suffix=st.sampled_from(["txt", "csv", "parquet"]))
def test_any_bytes_give_ids_or_an_input_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    try:
        ids = read_ids(write(tmp_path, f"a.{suffix}", content))
    except InputError:
        return
    except MissingExtraError:
        assert suffix == "parquet"
        return
    assert ids
    assert all(isinstance(i, str) and i == i.strip() and i for i in ids)


@ANY_FILE
@given(content=st.text(max_size=80), suffix=st.sampled_from(["txt", "csv"]))
def test_any_text_gives_ids_or_an_input_error(tmp_path: Path, content: str, suffix: str) -> None:
    try:
        assert read_ids(write(tmp_path, f"a.{suffix}", content.encode("utf-8", "surrogatepass")))
    except InputError:
        pass


@given(ids=st.lists(st.integers(0, 10**9), min_size=1, unique=True), seed=st.integers(0, 9))
def test_finds_ids_in_any_order(ids: list[int], seed: int) -> None:
    chosen = [
        ids[i] for i in torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
    ][:5]
    found = by_ids([str(i) for i in chosen], ids)
    assert found.tolist() == sorted(ids.index(i) for i in chosen)
    assert torch.equal(found, by_ids(sorted(chosen), np.array(ids)))
    assert torch.equal(found, by_ids(chosen, torch.tensor(ids)))


@pytest.mark.slow
def test_a_million_ids() -> None:
    n = 1_000_000
    ids = [f"image-{i:07d}.png" for i in range(n)]
    found = by_ids(ids[::-1], ids)
    assert torch.equal(found, torch.arange(n))
    with pytest.raises(InputError, match=r"^1 of the 1000001 ids.*: new\. "):
        by_ids([*ids, "new"], ids)


def test_refuses_ids_with_the_first_ten_and_the_count() -> None:
    with pytest.raises(InputError, match=r"^12 of the 13 ids.*: a0, a1, .*a9 and 2 more\. Nothing"):
        by_ids([*(f"a{i}" for i in range(12)), "x"], ["x", "y"])
    with pytest.raises(InputError, match="^2 ids are asked for more than once: x, z. Name each once"):
        by_ids(["x", "z", "y", "x", "x", "z"], ["x", "y", "z"])
    with pytest.raises(InputError, match="^1 ids to delete belong to several examples: x"):
        by_ids(["x"], ["x", "y", "x"])
    assert by_ids(["y"], ["x", "y", "x"]).tolist() == [1]  # a repeated id that nobody asks for does no harm
    with pytest.raises(EmptyDataError, match="no id"):
        by_ids([], ["x"])


def test_finds_classes() -> None:
    labels, names = torch.tensor([2, 0, 1, 2]), ["cat", "dog", "owl", "yak"]
    assert by_classes(["owl", "cat"], labels, names).tolist() == [0, 1, 3]
    assert by_classes([2, "0"], labels).tolist() == [0, 1, 3]
    assert by_classes(["1"], labels, ["2", "1", "0"]).tolist() == [2]
    assert by_classes(["2"], labels, ["2", "1", "0"]).tolist() == [1]  # a name wins over a number
    assert by_classes([2], labels, ["2", "1", "0"]).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (
            ["cow", 9],
            ["cat", "dog", "owl"],
            "^2 of the classes to delete do not exist: cow, 9. There are: cat, dog, owl",
        ),
        ([-1], None, "do not exist: -1. There are: 0, 1, 2"),
        (["²"], None, "do not exist"),
        (["dog", 1], ["cat", "dog", "owl"], "more than once"),
        (["yak"], ["cat", "dog", "owl", "yak"], "no training example: yak"),
        (["cat"], ["cat", "cat", "owl"], "several classes are named"),
        ([], None, "no class"),
    ],
)
def test_refuses_classes(classes: list, names: list[str] | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        by_classes(classes, torch.tensor([2, 0, 1, 2]), names)


def test_finds_values() -> None:
    columns = {"owner": ["ann", "bob", "ann"], "year": torch.tensor([1999, 2000, 1999])}
    assert by_value("owner", "ann", columns).tolist() == [0, 2]
    assert by_value("year", "2000", columns).tolist() == by_value("year", 2000, columns).tolist() == [1]
    with pytest.raises(InputError, match="no column 'place'. It has: owner, year"):
        by_value("place", 1, columns)
    with pytest.raises(
        InputError, match="no example has 'eve' in column 'owner'. It holds 2 values: ann, bob"
    ):
        by_value("owner", "eve", columns)
