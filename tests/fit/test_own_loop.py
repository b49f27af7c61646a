"""A training function of the user's own: seeded, given the right examples, and refused where it cannot forget."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from unweave import Data, seeded
from unweave.errors import InputError
from unweave.fit.own_loop import Examples, OwnLoop
from unweave.io.forms import form_of
from unweave.io.targets import read_targets
from unweave.tasks import Classify

X, Y = torch.randn(30, 4, generator=seeded(0)), torch.arange(30) % 3
DATA = Data(TensorDataset(X, Y), Classify(3), 8)


def loop(train: Any, seed: int) -> nn.Module:
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        for x, y in DataLoader(train, batch_size=8, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_one_seed_gives_one_model_and_leaves_the_generators_alone() -> None:
    recipe = OwnLoop(function=loop)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again, other = (recipe.build(DATA, rng=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_numpy_and_random_are_seeded_by_what_the_function_is_told() -> None:
    told = []

    def draws(train: Any, seed: int) -> nn.Module:
        assert 0 <= seed < 2**32
        told.append((np.random.rand(), random.random(), float(torch.rand(()))))
        np.random.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        told.append((np.random.rand(), random.random(), float(torch.rand(()))))
        return loop(train, seed)

    OwnLoop(function=draws).build(DATA, rng=seeded(3))
    assert told[0] == told[1]


def test_the_examples_are_those_of_the_subset_in_the_users_own_form() -> None:
    own = form_of((X.numpy(), np.array(["a", "b", "c"])[Y]))
    read = read_targets({"train": own.targets}, "classes", None)
    data = own.data(read).subset([5, 4, 3]).subset([2, 0])
    examples = Examples.of(data)
    assert [str(examples[i][1]) for i in range(2)] == ["a", "c"]
    assert examples.positions.tolist() == [3, 5]
    inputs, labels = examples.given
    assert (inputs == X.numpy()[[3, 5]]).all()
    assert labels.tolist() == ["a", "c"]


def test_tensors_are_there_where_tensors_were_given() -> None:
    examples = Examples.of(DATA.subset([7, 2]))
    assert torch.equal(examples.tensors[0], X[[7, 2]])
    assert torch.equal(examples.tensors[1], Y[[7, 2]])
    assert examples.read == 2
    lists = Examples.of(Data([(x, int(y)) for x, y in zip(X, Y, strict=True)], Classify(3)))  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="are no tensors"):
        _ = lists.tensors


def test_a_users_own_subset_is_followed() -> None:
    data = Data(Subset(TensorDataset(X, Y), [9, 8, 7]), Classify(3)).subset([1])
    examples = Examples.of(data)
    assert torch.equal(examples[0][0], X[8])
    with pytest.raises(IndexError, match="there are 1 examples; got index 1"):
        examples[1]
    assert [int(y) for _, y in examples] == [int(Y[8])]


@pytest.mark.slow
def test_what_workers_of_a_loader_read_counts() -> None:
    def parallel(train: Any, seed: int) -> nn.Module:
        for _ in DataLoader(train, batch_size=8, num_workers=1):
            pass
        return nn.Linear(4, 3)

    assert isinstance(
        OwnLoop(function=parallel).build(DATA, rng=seeded(0)), nn.Linear
    )  # not refused as unread


def nothing(train: Any, seed: int) -> Any:
    list(train)


def unread(train: Any, seed: int) -> nn.Module:
    model = nn.Linear(4, 3)
    nn.functional.cross_entropy(model(X), Y).backward()
    return model


def peeks(train: Any, seed: int) -> nn.Module:
    return nn.Linear(len(train[0][0]), 3 + 0 * len(train))


def fails(train: Any, seed: int) -> nn.Module:
    raise KeyError("lr")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (nothing, r"the recipe nothing, line \d+, must return the trained model.*returned a NoneType"),
        (unread, r"trained without reading the data it was given, so a model .* still hold the deleted"),
        (peeks, "trained after reading only 1 of 30 examples of the data it was given"),
        (fails, r"the recipe fails, line \d+, failed at line \d+: KeyError: 'lr'"),
    ],
)
def test_what_cannot_be_a_retraining_is_refused(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OwnLoop(function=function).build(DATA, rng=seeded(0))


def test_a_tenth_of_the_examples_is_enough_and_less_is_not() -> None:
    def reads(count: int) -> Callable[[Any, int], nn.Module]:
        def function(train: Any, seed: int) -> nn.Module:
            for i in range(count):
                train[i]
            return nn.Linear(4, 3)

        return function

    OwnLoop(function=reads(3)).build(DATA, rng=seeded(0))
    with pytest.raises(InputError, match="only 2 of 30"):
        OwnLoop(function=reads(2)).build(DATA, rng=seeded(0))


def test_a_function_of_other_arguments_is_refused_with_its_line() -> None:
    def short(train: Any) -> nn.Module:
        return nn.Linear(4, 3)

    with pytest.raises(InputError, match=r"short in project.py, line \d+, must take the examples and a seed"):
        OwnLoop(function=short, file="project.py")


def test_repeating_is_told_from_bits() -> None:
    counted = [0]

    def drifts(train: Any, seed: int) -> nn.Module:
        counted[0] += 1
        model = loop(train, seed)
        with torch.no_grad():
            next(model.parameters()).add_(counted[0])
        return model

    assert OwnLoop(function=loop).repeats(DATA)
    assert not OwnLoop(function=drifts).repeats(DATA)


def test_names_under_which_a_function_reaches_the_data_are_found() -> None:
    pair = (X, Y)
    assert OwnLoop(function=unread).names_data(pair) == ("X", "Y")
    assert OwnLoop(function=loop).names_data(pair) == ()
