from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from unweave import Data, fit_, seeded
from unweave.embedded.brain import simulated_brain
from unweave.errors import InputError
from unweave.interpret import BrainOT, VoxelEncoder, identification, region_effects, token_accuracy, without
from unweave.random import global_seed


def tokens(n: int = 3, t: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = seeded(seed)
    return (
        torch.randn(n, t, 5, generator=rng, dtype=torch.float64),
        torch.randn(n, t, 5, generator=rng, dtype=torch.float64),
    )


def test_all_of_the_mass_is_what_the_assignment_costs() -> None:
    x, y = tokens()
    for name, distance in (
        ("euclidean", lambda a, b: torch.cdist(a, b)),
        ("squared", lambda a, b: torch.cdist(a, b).square()),
        ("cosine", lambda a, b: 1 - nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)),
    ):
        expected = 0.0
        for a, b in zip(x, y, strict=True):
            c = distance(a, b)
            rows, columns = linear_sum_assignment(c.numpy())
            expected += float(c[rows, columns].mean()) / 3
        assert float(BrainOT(mass=1.0, cost=name)(x, y)) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", [{}, {"cost": "squared", "mass": 0.7}, {"cost": "cosine", "mse": 0.3}, {"solver": "entropic"}]
)
def test_its_gradient_is_that_of_finite_differences(how: dict[str, object]) -> None:
    x, y = tokens(n=2, t=4)
    loss = BrainOT(**how)  # type: ignore[arg-type]
    x.requires_grad_()
    (slope,) = torch.autograd.grad(loss(x, y), x)
    held = loss.plans(loss.costs(x, y))
    step = 1e-6
    for at in ((0, 0, 0), (0, 3, 2), (1, 2, 4)):
        moved = [x.detach().clone() for _ in range(2)]
        moved[0][at] += step
        moved[1][at] -= step
        if (
            loss.solver == "exact"
        ):  # the plan may move with the tokens: by the envelope theorem that makes no difference
            up, down = (float(loss(m, y)) for m in moved)
        else:  # what is differentiated is the cost at the plan held
            up, down = (float((held * loss.costs(m, y)).sum((1, 2)).mean()) for m in moved)
        assert float(slope[at]) == pytest.approx((up - down) / (2 * step), abs=1e-5)
    with torch.no_grad():
        same = x.detach().clone()
    same.requires_grad_()
    BrainOT(mass=1.0)(same, same.detach()).backward()
    assert bool(same.grad.isfinite().all()), "tokens that meet have no slope, not NaN"  # type: ignore[union-attr]


def test_order_counts_only_where_places_or_pairs_do() -> None:
    x, y = tokens(t=16)
    turned = x[:, torch.randperm(16, generator=seeded(1))]
    assert float(BrainOT()(turned, y)) == pytest.approx(float(BrainOT()(x, y)))
    for how in ({"position_weight": 1.0}, {"mse": 0.5}):
        assert abs(float(BrainOT(**how)(turned, x)) - float(BrainOT(**how)(x, x))) > 0.05  # type: ignore[arg-type]
    assert float(BrainOT(mass=1.0)(y[:, torch.randperm(16, generator=seeded(2))], y)) == pytest.approx(
        0, abs=1e-6
    )
    far = BrainOT(mass=1.0, position_weight=1000.0)
    in_place = (x - y).norm(dim=2).mean()
    assert float(far(x, y)) == pytest.approx(float(in_place)), "places outweigh all: token i goes to token i"
    grid = far.costs(0 * x, 0 * x)[0]
    assert float(grid[0, 1]) == pytest.approx(1000 / 3)
    assert float(grid[0, 5]) == pytest.approx(1000 / 3 * 2**0.5)
    line = BrainOT(position_weight=1.0).costs(*(0 * t for t in tokens(t=5)))[0]
    assert line[0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_what_is_left_out_gets_no_gradient_and_is_counted() -> None:
    x, y = tokens(n=1, t=8)
    x.requires_grad_()
    loss = BrainOT(mass=0.5)
    loss(x, y).backward()
    silent = (x.grad == 0).all(2).float().mean()  # type: ignore[union-attr]
    assert float(silent) == loss.unmatched(x, y) == 0.5
    assert BrainOT(mass=1.0).unmatched(x, y) == 0
    loss.mass = 1.0  # a schedule sets it between epochs
    assert loss.unmatched(x, y) == 0


def test_measures_by_hand() -> None:
    _, y = tokens(n=6, t=4)
    assert token_accuracy(y, y) == 1
    swapped = y[:, [1, 0, 2, 3]]
    assert token_accuracy(swapped, y) == 0.5
    for by in ("flat", "pooled", "transport"):
        assert identification(y[[1, 0, 2, 3, 4, 5]], y, 6, rng=seeded(0), by=by) == pytest.approx(4 / 6)  # type: ignore[arg-type]
    turned = y[:, [1, 2, 3, 0]]
    found = {by: identification(turned, y, 6, rng=seeded(0), by=by) for by in ("flat", "pooled", "transport")}  # type: ignore[arg-type]
    assert found["transport"] == 1 > found["flat"], "only transport does not care for order"
    assert identification(y + 0.1 * y.std() * torch.ones(5), y, 6, rng=seeded(0)) == 1
    assert identification(torch.ones(6, 4, 5), torch.ones(6, 4, 5), 2, rng=seeded(0)) == 0


def test_regions_that_repeat_and_regions_that_need_each_other() -> None:
    voxels = torch.ones(1, 6)
    regions = torch.tensor([0, 0, 1, 1, 2, 2])

    class Or(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return torch.stack([v[:, 0].maximum(v[:, 2]), v[:, 0] * v[:, 4]], 1)[:, :, None]

    either = region_effects(Or(), voxels, regions, lambda t: float(t[0, 0, 0]))
    both = region_effects(Or(), voxels, regions, lambda t: float(t[0, 1, 0]))
    assert (either.whole, either.alone, either.joint[0, 1]) == (1, {0: 0, 1: 0, 2: 0}, 1)
    assert (both.alone, both.joint[0, 2]) == ({0: 1, 1: 0, 2: 1}, -1)
    assert without(voxels, regions, 0, 2).tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.fixture(scope="module")
def fitted() -> nn.Module:
    brain = simulated_brain(300, 100, voxels=150)
    with global_seed(0):
        encoder = VoxelEncoder(150, 16, 32, hidden=32, begin="full")
    loss, data = (
        BrainOT(mass=0.75, mse=0.9),
        Data(TensorDataset(brain.train.voxels, brain.train.tokens), None, 50),
    )  # type: ignore[type-var,var-annotated]
    optimizer = torch.optim.AdamW(encoder.parameters(), 3e-3)
    fit_(encoder, data, lambda m, b: loss(m(b[0]), b[1]), optimizer, epochs=12, rng=seeded(0))
    return encoder


def test_an_encoder_finds_the_image_in_a_simulated_brain(fitted: nn.Module) -> None:
    brain = simulated_brain(300, 100, voxels=150)
    with torch.no_grad():
        found = fitted(brain.test.voxels)

    def figure(predicted: Tensor) -> float:
        return identification(predicted, brain.test.clean, 20, rng=seeded(0))

    assert figure(found) > 0.3 > 6 * 0.05 * 0.9
    told = region_effects(fitted, brain.test.voxels, brain.regions, figure)
    assert told.whole == figure(found)
    assert told.alone[4] < min(told.alone[r] for r in range(4)), "a region of noise adds least"


def test_the_simulated_brain() -> None:
    brain = simulated_brain(300, 100, voxels=150, distracted=0.5)
    train, test = brain.train, brain.test
    assert train.tokens.shape == (300, 16, 32)
    assert test.voxels.shape == (100, 150)
    other = (train.tokens != train.clean).any(2)
    assert 100 < int(other.any(1).sum()) < 200
    assert set(other.sum(1).tolist()) <= {0, 1, 2, 3, 4, 5}
    assert torch.equal(test.tokens, test.clean)
    assert brain.regions.bincount().tolist() == [27, 26, 26, 26, 45]
    again = simulated_brain(300, 100, voxels=150, distracted=0.5)
    assert torch.equal(again.train.voxels, train.voxels)
    noise = brain.train.voxels[:, brain.regions == 4]
    assert float(noise.std()) == pytest.approx(0.3, rel=0.05)
    with pytest.raises(InputError, match="there are 1797 digits; 1700 [+] 400 trials"):
        simulated_brain(1700, 400)


def test_a_published_beginning_is_of_rank_one() -> None:
    with global_seed(0):
        one, full = (VoxelEncoder(40, 9, 8, hidden=16, begin=b) for b in ("rank one", "full"))  # type: ignore[arg-type]
    v = torch.randn(20, 40, generator=seeded(0))
    seen = one.read(v)[:, None] * one.scale
    centred = (seen - seen.mean(0)).transpose(0, 1).reshape(9, -1)
    assert int(torch.linalg.matrix_rank(centred)) == 1
    assert one(v).shape == full(v).shape == (20, 9, 8)


def test_refuses() -> None:
    x, y = tokens()
    for bad, words in (
        ({"mass": 0.0}, "mass must be above 0 and at most 1"),
        ({"mass": 1.5}, "mass must be"),
        ({"cost": "odd"}, "cost must be"),
        ({"mse": 1.0}, "mse must be"),
        ({"blur": 0.2}, "blur=0.2 would do nothing with solver='exact'"),
    ):
        with pytest.raises(InputError, match=words):
            BrainOT(**bad)  # type: ignore[arg-type]
    for a, b in ((x[0], y[0]), (x, y[:2]), (x, y[..., :3])):
        with pytest.raises(InputError, match=r"BrainOT compares tokens \[b, t, width\]"):
            BrainOT()(a, b)
    assert float(BrainOT()(x, y[:, :4])) > 0
    with pytest.raises(InputError, match="compares tokens in place; got 9 and 4"):
        BrainOT(mse=0.5)(x, y[:, :4])
    for among in (1, 4):
        with pytest.raises(InputError, match="chooses among 2 to 3 images"):
            identification(x, y, among, rng=seeded(0))
    with pytest.raises(InputError, match=r"reads voxels \[n, 40\]; got \(2, 41\)"):
        VoxelEncoder(40, 4, 8, hidden=8)(torch.ones(2, 41))
    with pytest.raises(InputError, match="a multiple of heads"):
        VoxelEncoder(40, 4, 8, hidden=9)
    with pytest.raises(InputError, match="begin must be"):
        VoxelEncoder(40, 4, 8, begin="odd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no voxel is of region 7. There are: \[0, 1\]"):
        without(torch.ones(2, 3), torch.tensor([0, 1, 1]), 7)
    with pytest.raises(InputError, match="one region for each of 3 voxels"):
        without(torch.ones(2, 3), torch.tensor([0, 1]), 0)
