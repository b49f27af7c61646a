from __future__ import annotations

import hmac
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from unweave import Data
from unweave.embedded.digits import of_tensors
from unweave.errors import InputError
from unweave.io.content import UnstableError, digest_of
from unweave.io.identities import fingerprints, identities, named, require_key
from unweave.tasks import Classify


def data(n: int = 5) -> Data[Any]:
    x = torch.arange(2.0 * n).reshape(n, 2)
    return of_tensors(x, torch.arange(n) % 2, classes=2)


def test_ids_as_text_whatever_their_type() -> None:
    for ids in ([1, 2, 3, 4, 5], np.arange(1, 6), torch.arange(1, 6), ("1", "2", "3", "4", "5")):
        assert identities(data(), ids) == ("id", [b"1", b"2", b"3", b"4", b"5"])


def test_content_where_there_is_no_id_whatever_the_position() -> None:
    by, known = identities(data())
    assert by == "content"
    assert len(set(known)) == 5
    turned = data().subset(torch.tensor([4, 2, 0]))
    assert identities(turned)[1] == [known[4], known[2], known[0]]
    examples = data()
    examples.examples.tensors[1][3] = 1 - examples.examples.tensors[1][3]  # type: ignore[attr-defined]
    assert [a == b for a, b in zip(identities(examples)[1], known, strict=True)] == [
        True,
        True,
        True,
        False,
        True,
    ]


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.rand(2), i % 2


def test_content_that_changes_is_refused() -> None:
    noisy = Data(Noisy(), Classify(classes=2))
    with pytest.raises(
        UnstableError, match="is another each time it is read.*Give the data set an attribute `ids`"
    ):
        identities(noisy)
    assert identities(noisy, [1, 2, 3, 4])[0] == "id"


def test_digest_of_nested_examples() -> None:
    one = {"b": torch.ones(2), "a": [np.ones(2), "x", 3]}
    assert digest_of(one) == digest_of(dict(reversed(one.items())))
    for other in (
        {**one, "b": torch.ones(2, dtype=torch.float64)}, {**one, "b": torch.ones(1, 2)},
        {**one, "a": [np.ones(2), "y", 3]}, {**one, "a": [np.ones(2, dtype=np.float32), "x", 3]},
        {"c": one["b"], "a": one["a"]},
    ):  # fmt: skip
        assert digest_of(other) != digest_of(one)


def test_fingerprints_are_keyed() -> None:
    assert fingerprints([b"a"], b"k") == [hmac.new(b"k", b"a", "sha256").digest()[:16]]
    assert fingerprints([b"a"], b"k") != fingerprints([b"a"], b"l")
    assert named(b"k") != named(b"l")
    assert b"k" * 32 not in bytes.fromhex(named(b"k" * 32))


def test_another_key() -> None:
    with pytest.raises(InputError, match="under the key abc, and the key here is"):
        require_key("abc", b"x" * 32, "the model")
