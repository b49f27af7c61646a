"""Damaged files against every reader of unweave.io: how many end in a traceback, how many are read wrongly in silence.

python -m benchmarks.fuzz_readers [--mutations 1000] [--seed 0] [--readers masks ids.csv ...] [--list]

Each mutation damages one file of a whole set: flipped bits, cut, lengthened, zeroed, swapped or repeated blocks; in
JSON, headers of safetensors, csv and pickles also the values themselves: of a wrong type, missing, swapped, nested
thousands deep. What may come out is an error of unweave on one line, or what the undamaged files say. "other" counts
what was read otherwise: for a sealed reader, whose files carry a checksum, that is a silent fault; for an open one it
is what the altered file says, and nothing in it could tell.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unweave.errors import UnweaveError

SECONDS = 30
"""A reading that takes longer counts as a traceback."""


@dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
        make: writes a whole set of files into a folder.
        read: reads the folder; what it returns must tell everything that was read.
        sealed: whether the files carry a checksum, so that nothing may be read otherwise.
        spare: names of files that are not damaged, because they are open where the others are sealed.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    sealed: bool = False
    spare: tuple[str, ...] = ()


@dataclass
class Outcome:
    """Of one reader: how often what came out, and the faults themselves.

    Attributes:
        counts: "refused", "same", "other", "traceback" and "silent", with how often.
        faults: of the last two, what was done and what came of it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def fuzz(name: str, mutations: int, seed: int) -> Outcome:
    """Damage a reader's files so many times, each time one file, and read."""
    with _quiet():
        return _fuzz(name, mutations, seed)


def _fuzz(name: str, mutations: int, seed: int) -> Outcome:
    reader, done = readers()[name], Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        reader.make(whole)
        meant = _digest(reader.read(whole))
        files = sorted(
            p.relative_to(whole) for p in whole.rglob("*") if p.is_file() and p.name not in reader.spare
        )
        for at in range(mutations):
            rng = random.Random(f"{name} {seed} {at}")
            file = rng.choice(files)
            how, content = mutated((whole / file).read_bytes(), file.name, rng)
            copy = Path(place) / "copy"
            shutil.copytree(whole, copy)
            (copy / file).write_bytes(content)
            came, why = _outcome(reader, copy, meant)
            done.counts[came] += 1
            if came in ("traceback", "silent"):
                done.faults.append(f"{name} #{at} {file}, {how}: {why}")
            shutil.rmtree(copy)
    return done


def _outcome(reader: Reader, folder: Path, meant: str) -> tuple[str, str]:
    try:
        with _limited():
            found = _digest(reader.read(folder))
    except UnweaveError as error:
        text = str(error)
        return ("traceback", f"several lines: {text[:300]!r}") if "\n" in text else ("refused", "")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if found == meant:
        return "same", ""
    return ("silent", "read otherwise without a word") if reader.sealed else ("other", "")


def _digest(found: Any) -> str:
    digest = hashlib.sha256()

    def feed(node: Any) -> None:
        if isinstance(node, nn.Module):
            node = dict(node.state_dict())
        if isinstance(node, torch.Tensor):
            raw = node.detach().contiguous().reshape(-1)
            digest.update(f"{node.dtype}{tuple(node.shape)}".encode())
            digest.update(raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b"")
        elif isinstance(node, Mapping):
            for key in sorted(node, key=str):
                digest.update(repr(key).encode())
                feed(node[key])
        elif isinstance(node, (list, tuple)):
            digest.update(f"{len(node)}[".encode())
            for part in node:
                feed(part)
        else:
            digest.update(repr(node).encode("utf-8", "surrogatepass"))

    feed(found)
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutated(content: bytes, name: str, rng: random.Random) -> tuple[str, bytes]:
    """The bytes of a file, damaged, and how."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [
        _flip,
        _cut,
        _lengthen,
        _zero,
        _swap,
        _repeat,
        _noise,
    ]
    kinds *= 2
    if name.endswith((".json", ".jsonl")):
        kinds += [_json_values] * 10
    elif name.endswith(".safetensors"):
        kinds += [_header] * 10
    elif name.endswith((".csv", ".txt")):
        kinds += [_cells] * 10
    elif name.endswith((".pt", ".bin", ".tar")):
        kinds += [_objects] * 6
    for _ in range(20):
        kind = rng.choice(kinds)
        try:
            changed = kind(content, rng)
        except (ValueError, IndexError, RecursionError, pickle.UnpicklingError):
            continue
        if changed != content:
            return kind.__name__.strip("_"), changed
    return "flip", _flip(content or b"\0", rng)


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return rng.choice((content[:at], content[at:], content[:-1]))


def _lengthen(content: bytes, rng: random.Random) -> bytes:
    at = rng.choice((rng.randrange(len(content) + 1), len(content)))
    return content[:at] + rng.randbytes(rng.choice((1, 7, 300))) + content[at:]


def _zero(content: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(content)), rng.choice((1, 8, 64, len(content)))
    return content[:at] + bytes(len(content[at : at + size])) + content[at + size :]


def _swap(content: bytes, rng: random.Random) -> bytes:
    size = rng.choice((1, 4, 16, 64))
    a, b = sorted(rng.randrange(max(1, len(content) - size)) for _ in range(2))
    if b < a + size:
        return content
    return (
        content[:a]
        + content[b : b + size]
        + content[a + size : b]
        + content[a : a + size]
        + content[b + size :]
    )


def _repeat(content: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(content)), rng.choice((1, 8, 64))
    return content[: at + size] + content[at:]


def _noise(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"<html>404</html>", rng.randbytes(len(content)), b"\xff\xfe" + content, b"\0"))


def _json_values(content: bytes, rng: random.Random) -> bytes:
    text = content.decode()
    if "\n{" in text.strip():  # lines of JSON
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = _altered(lines[at], rng)
        return "\n".join(lines).encode()
    return _altered(text, rng).encode()


def _altered(text: str, rng: random.Random) -> str:
    tree = json.loads(text)
    places = list(_places(tree))
    strange: list[Any] = [
        None, True, -1, 0, 1e308, 10**30, "", "x" * 50, "../../x", "é\x00", [], {}, [[]], {"a": {}}, "DEEP", 0.5,
    ]  # fmt: skip
    for _ in range(rng.choice((1, 1, 1, 3))):
        if not places:
            return json.dumps(rng.choice(strange))
        node, key = rng.choice(places)
        try:
            what = rng.randrange(4)
            if what == 0:
                del node[key]
            elif what == 1:
                other, there = rng.choice(places)
                node[key], other[there] = other[there], node[key]
            elif what == 2 and isinstance(node, dict):
                node[f"{key}x"] = node.pop(key)
            else:
                node[key] = rng.choice(strange)
        except (KeyError, IndexError, TypeError):
            continue
    depth = rng.choice((2000, 20_000, 200_000))
    deep = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
    return json.dumps(tree).replace('"DEEP"', deep)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def _header(content: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].decode()
    if rng.random() < 0.3 and "__metadata__" in header:
        tree = json.loads(header)
        key = rng.choice(sorted(tree["__metadata__"]))
        told = tree["__metadata__"][key]
        tree["__metadata__"][key] = (
            _altered(told, rng) if told[:1] in "{[" else rng.choice(("", "x", told[::-1]))
        )
        header = json.dumps(tree)
    else:
        header = _altered(header, rng)
    return len(header.encode()).to_bytes(8, "little") + header.encode() + content[8 + size :]


def _cells(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().splitlines()
    at = rng.randrange(len(lines))
    cells = lines[at].split(",")
    strange = [
        "",
        '"',
        "../x",
        "\\",
        "9" * 40,
        "é",
        "e\u0301",
        " ",
        "nan",
        "7.0",
        "-1",
        "a,b",
        "\x00",
        "x" * 5000,
        "\r",
    ]
    what = rng.randrange(5)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif what == 2:
        del cells[rng.randrange(len(cells))]
    else:
        cells[rng.randrange(len(cells))] = rng.choice(strange)
    if what > 1:
        lines[at] = ",".join(cells)
    return "\n".join(lines).encode()


def _objects(content: bytes, rng: random.Random) -> bytes:
    tree = torch.load(io.BytesIO(content), weights_only=False)  # ours: `make` wrote it just now
    places = list(_nested(tree))
    strange: list[Any] = [
        None, True, -1, 2.5, "x", [], {}, (), {1: 2}, torch.zeros(0), torch.tensor(float("nan")), torch.ones(2, 2).long(),
        torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex64), torch.ones(1).expand(10**6), b"x",
        torch.empty(3, device="meta"), nn.Linear(2, 2).state_dict(),

    ]  # fmt: skip
    for _ in range(rng.choice((1, 1, 2))):
        node, key = rng.choice(places)
        what = rng.randrange(5)
        if what == 0:
            node.pop(key, None)
        elif what == 1:
            node[rng.choice(("", "a.b", 3, None, ("x",), f"{key}x"))] = node.pop(key, None)
        elif what == 2 and isinstance(node.get(key), torch.Tensor):
            node[key] = rng.choice(
                (node[key].double(), node[key].t() if node[key].ndim == 2 else node[key][:0], node[key] * 0)
            )
        else:
            node[key] = rng.choice(strange)
    out = io.BytesIO()
    zipped = rng.random() < 0.7
    torch.save(tree, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def _nested(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict):
        for key, value in list(tree.items()):
            yield tree, key
            yield from _nested(value)


def readers() -> dict[str, Reader]:
    """Every reader by its name."""
    from benchmarks.fuzz_folders import folders
    from benchmarks.fuzz_weights import weights

    return {**weights(), **folders()}


def main() -> int:
    """Fuzz, print a line a reader, and fail where there is a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="*", default=[])
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    if asked.list:
        print("\n".join(readers()))
        return 0
    faults: list[str] = []
    print(
        f"{'reader':24} {'refused':>8} {'same':>8} {'other':>8} {'traceback':>10} {'silent':>8} {'seconds':>9}"
    )
    for name in asked.readers or readers():
        began = time.perf_counter()
        found = fuzz(name, asked.mutations, asked.seed)
        faults += found.faults
        n = found.counts
        print(
            f"{name:24} {n['refused']:8} {n['same']:8} {n['other']:8} {n['traceback']:10} {n['silent']:8} "
            f"{time.perf_counter() - began:9.1f}",
            flush=True,
        )
    print("\n".join(faults[:100]))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
