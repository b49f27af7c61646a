from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from unweave import seeded
from unweave.errors import InputError
from unweave.masks import select
from unweave.masks.select import lowest
from unweave.prune import ERK, NM, Block, Channel, Global, PerOutput, Uniform, Unstructured

SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=5,
)


def scores_of(shapes: list[tuple[int, ...]], seed: int = 0, ties: bool = False) -> dict[str, torch.Tensor]:
    rng = seeded(seed)
    made = {f"layer{i}": torch.randn(*shape, generator=rng).abs() for i, shape in enumerate(shapes)}
    return {name: (4 * s).round() for name, s in made.items()} if ties else made


@given(shapes=SHAPES, sparsity=st.floats(0, 0.95), ties=st.booleans(), seed=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_global_keeps_exactly_k_and_the_best(shapes, sparsity: float, ties: bool, seed: int) -> None:
    scores = scores_of(shapes, seed, ties)
    try:
        mask = select(scores, Unstructured(), Global(sparsity))
    except InputError:
        assume(False)
    flat = torch.cat([s.flatten() for s in scores.values()])
    alive = torch.cat([mask.keep[name].flatten() for name in scores])
    k = round((1 - sparsity) * len(flat))
    assert int(alive.sum()) == k
    reference = torch.zeros(len(flat), dtype=torch.bool)
    reference[flat.sort(descending=True, stable=True).indices[:k]] = True  # ties: earlier positions first
    assert torch.equal(alive, reference)


@given(shapes=SHAPES, sparsity=st.floats(0, 0.95))
@settings(max_examples=100, deadline=None)
def test_less_sparsity_keeps_a_superset(shapes, sparsity: float) -> None:
    scores = scores_of(shapes, ties=True)
    try:
        small, large = select(scores, budget=Global(sparsity)), select(scores, budget=Global(sparsity / 2))
    except InputError:
        assume(False)
    assert (small & large) == small


@given(shapes=SHAPES, sparsity=st.floats(0, 0.99), power=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=300, deadline=None)
def test_erk_meets_the_total_and_never_exceeds_a_layer(shapes, sparsity: float, power: float) -> None:
    named = {str(i): shape for i, shape in enumerate(shapes)}
    densities = ERK(sparsity, power).densities(named)
    total = sum(map(prod, shapes))
    assert all(0 <= d <= 1 + 1e-12 for d in densities.values())
    kept = sum(densities[name] * prod(shape) for name, shape in named.items())
    assert kept == pytest.approx((1 - sparsity) * total, rel=1e-9)
    raw = {name: (sum(shape) / prod(shape)) ** power for name, shape in named.items()}
    free = [name for name in named if densities[name] < 1]
    ratios = [densities[name] / raw[name] for name in free]
    assert all(r == pytest.approx(ratios[0], rel=1e-9) for r in ratios)  # below the cap: in proportion
    # a layer is only capped if its share would have been above 1
    assert all(raw[name] * ratios[0] >= 1 - 1e-9 for name in named if densities[name] == 1 and ratios)


def test_erk_by_hand() -> None:
    # raw: small (2+4)/8 = 3/4, large 40/400 = 1/10; budget 204 weights; scale 204/(6+40) = 4.43 > 4/3,
    # so small is whole; then 204 - 8 = 196 of 400
    densities = ERK(0.5).densities({"small": (2, 4), "large": (20, 20)})
    assert densities == pytest.approx({"small": 1.0, "large": 0.49})


def test_two_of_four_by_hand() -> None:
    scores = {"w": torch.tensor([[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 0.0]])}
    kept = select(scores, NM(2, 4)).keep["w"]
    assert kept.int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0]]


@given(n=st.integers(1, 3), kernel=st.sampled_from([(), (3,), (3, 3)]))
@settings(max_examples=20, deadline=None)
def test_n_of_m_holds_along_the_input_dimension(n: int, kernel: tuple[int, ...]) -> None:
    scores = {"w": torch.rand(5, 8, *kernel, generator=seeded(0))}
    kept = select(scores, NM(n, 4)).keep["w"]
    assert kept.shape == scores["w"].shape
    groups = kept.movedim(1, -1).reshape(-1, 4)
    assert (groups.sum(1) == n).all()
    best = scores["w"].movedim(1, -1).reshape(-1, 4)
    assert (best.masked_fill(~groups, 9).amin(1) >= best.masked_fill(groups, -9).amax(1)).all()


def test_channels_by_hand() -> None:
    # norms 5, 3.16, 3: "l2" keeps the first two; sums 7, 4, 5.2: "sum" keeps the first and third
    scores = {"w": torch.tensor([[3.0, 4.0, 0.0], [3.0, 1.0, 0.0], [1.74, 1.73, 1.73]])}
    assert select(scores, Channel(), Uniform(1 / 3)).keep["w"][:, 0].tolist() == [True, True, False]
    assert select(scores, Channel("sum"), Uniform(1 / 3)).keep["w"][:, 0].tolist() == [True, False, True]
    kept = select(scores, Channel("mean"), Uniform(1 / 3)).keep["w"]
    assert (kept == kept[:, :1]).all()


@pytest.mark.parametrize(("reduce", "expected"), [("l2", [5, 13]), ("sum", [7, -17]), ("mean", [3.5, -8.5])])
def test_a_filters_score_is_of_all_its_weights(reduce: str, expected: list[float]) -> None:
    scores = torch.tensor([[3.0, 4.0], [-12.0, -5.0]])
    assert Channel(reduce).group("w", scores).tolist() == expected
    assert Channel(reduce).group("w", scores.view(2, 1, 2, 1)).tolist() == expected
    alone = [abs(v) if reduce == "l2" else v for v in (-2.0, 3.0)]  # of a vector each entry is a filter
    assert Channel(reduce).group("w", torch.tensor([-2.0, 3.0])).tolist() == alone


def test_blocks_with_cut_edges_by_hand() -> None:
    scores = {"w": torch.tensor([[1.0, 1.0, 9.0], [1.0, 1.0, 9.0], [2.0, 2.0, 0.0]])}
    # 2x2 blocks: means 1, 9 (cut), 2 (cut), 0 (cut); half of them live
    kept = select(scores, Block(2, 2), Uniform(0.5)).keep["w"]
    assert kept.int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert select(scores, Block(2, 2, "sum"), Uniform(0.75)).keep["w"].int().tolist() == [[0, 0, 1]] * 2 + [
        [0] * 3
    ]


@given(rows=st.integers(1, 5), columns=st.integers(1, 5), reduce=st.sampled_from(["mean", "sum", "l2"]))
@settings(max_examples=40, deadline=None)
def test_blocks_equal_a_loop(rows: int, columns: int, reduce: str) -> None:
    scores = torch.rand(7, 3, 3, generator=seeded(0), dtype=torch.float64)
    found = Block(rows, columns, reduce).group("w", scores)
    matrix = scores.flatten(1)
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            block = matrix[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
            naive = {"mean": block.mean(), "sum": block.sum(), "l2": block.square().mean().sqrt()}[reduce]
            torch.testing.assert_close(found[i, j], naive)


def test_per_output_compares_within_a_row() -> None:
    scores = {"w": torch.tensor([[1.0, 2.0], [30.0, 20.0]])}
    assert select(scores, budget=PerOutput(0.5)).keep["w"].tolist() == [[False, True], [True, False]]


def test_uniform_cuts_every_layer_alike() -> None:
    mask = select(scores_of([(10, 10), (4, 5)]), budget=Uniform(0.7))
    assert [int(alive.sum()) for alive in mask.keep.values()] == [30, 6]


def test_scores_of_any_sign_and_infinity() -> None:
    scores = {"w": torch.tensor([[-1.0, float("inf"), -float("inf"), -0.5]])}
    assert select(scores, budget=Global(0.5)).keep["w"].tolist() == [[False, True, False, True]]


def test_names_the_layer_whose_scores_are_nan() -> None:
    with pytest.raises(InputError, match=r"scores of second contain NaN"):
        select({"first": torch.ones(2, 2), "second": torch.tensor([[1.0, float("nan")]])})


def test_names_the_layer_that_would_be_fully_pruned() -> None:
    with pytest.raises(InputError, match="layer small would be fully pruned"):
        select({"large": torch.ones(4, 4), "small": torch.zeros(2, 2)}, budget=Global(0.5))
    with pytest.raises(InputError, match="layer w would be fully pruned"):
        select({"w": torch.ones(2, 2)}, budget=Uniform(0.9))


@pytest.mark.parametrize("budget", [Global, Uniform, ERK, PerOutput])
@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan")])
def test_refuses_sparsity_outside_the_unit_interval(budget, sparsity: float) -> None:
    with pytest.raises(
        InputError, match=r"sparsity must be at least 0 and below 1; .* It is the share of weights to remove"
    ):
        budget(sparsity)


def test_refuses_what_cannot_be_grouped() -> None:
    with pytest.raises(InputError, match="divisible by 4"):
        select({"w": torch.ones(2, 6)}, NM(2, 4))
    with pytest.raises(InputError, match="n < m"):
        NM(4, 4)
    with pytest.raises(InputError, match="Block.rows must be a whole number at least 1"):
        Block(0, 2)
    with pytest.raises(InputError, match="within a row"):
        select({"w": torch.ones(2, 4)}, Channel(), PerOutput(0.5))
    with pytest.raises(InputError, match="no scores"):
        select({})


def test_channels_last_scores_give_the_same_mask() -> None:
    scores = torch.arange(96.0).reshape(4, 3, 2, 4).remainder(7)  # many ties
    last = scores.to(memory_format=torch.channels_last)
    for pattern in (Unstructured(), Channel(reduce="sum")):
        plain, other = (select({"w": s}, pattern, Global(0.5)) for s in (scores, last))
        assert torch.equal(plain.keep["w"], other.keep["w"])


@pytest.mark.parametrize("n", [-1, 0, 1, 2, 5, 9, 17])
def test_lowest_are_exactly_so_many_and_equal_ones_by_position(n: int) -> None:
    values = torch.tensor([3, 1, 2, 1, 3, 1, 2, 2, 1, 0] * 3).float().view(5, 6)
    among = torch.arange(30).view(5, 6) % 5 != 3
    places = [i for i in values.flatten().sort(stable=True).indices.tolist() if among.flatten()[i]]
    expected = torch.zeros(30, dtype=torch.bool)
    expected[places[: max(0, n)]] = True
    assert torch.equal(lowest(values, among, n), expected.view(5, 6))
