"""Where in a picture a layer's vectors lie."""

from __future__ import annotations

import torch

from unweave.interpret.places import Places


def test_grids_are_read_off_shapes() -> None:
    picture = torch.zeros(3, 16, 32)
    assert Places.of(torch.zeros(1, 2, 4, 7), picture) == Places(2, 4)
    assert Places.of(torch.zeros(1, 8 + 1, 7), picture) == Places(2, 4, 1)
    assert Places.of(torch.zeros(1, 8 + 5, 7), picture) == Places(2, 4, 5)
    assert Places.of(torch.zeros(1, 7), picture).rows == 0
    assert Places.of(torch.zeros(1, 6, 7), picture).told(5) == "the whole picture"


def test_a_place_is_told_and_framed() -> None:
    places, grey = Places(2, 4, 1), torch.full((1, 16, 32), 0.5)
    assert places.told(0) == "the whole picture"
    assert places.told(1 + 6) == "row 2 of 2, column 3 of 4"
    assert torch.equal(places.framed(grey, 0), grey.expand(3, -1, -1))
    seen = places.framed(grey, 1 + 6)
    red = (seen[0] == 1) & (seen[1] == 0)
    rows, columns = red.nonzero().T
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (8, 15, 16, 23)
    assert int(red.sum()) == 4 * 7
    assert bool((seen[:, ~red] == 0.5).all())
