from __future__ import annotations

import hashlib

import pytest

from unweave.jobs.ledger.merkle import leads_to, leaf, path, root


def h(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def test_root_of_three_by_hand() -> None:
    a, b, c = (leaf(b"salt", x) for x in (b"a", b"b", b"c"))
    assert a == h(b"\x00", b"salt", b"a")
    assert root([a, b, c]) == h(b"\x01", h(b"\x01", a, b), c)  # an odd one goes up as it is
    assert root([]) == h()
    assert root([a]) == a


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 13])
def test_every_leaf_is_proven_and_no_other(n: int) -> None:
    leaves = [leaf(b"salt", bytes([i])) for i in range(n)]
    end = root(leaves)
    for i, one in enumerate(leaves):
        proof = path(leaves, i)
        assert leads_to(one, proof, end)
        assert not leads_to(leaf(b"salt", b"other"), proof, end)
        if proof:
            (left, beside), *rest = proof
            assert not leads_to(one, [(not left, beside), *rest], end)


def test_a_root_hides_what_is_under_it() -> None:
    assert root([leaf(b"one", b"x")]) != root([leaf(b"two", b"x")])
    assert root([leaf(b"s", b"x"), leaf(b"s", b"y")]) != root([leaf(b"s", b"y"), leaf(b"s", b"x")])
