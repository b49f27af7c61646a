"""The catalogue: methods found by any of their names, and what they need read off their code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, nn

from unweave.catalogue import FAMILIES, find, methods, name_of, needs_of, roles_of
from unweave.errors import InputError
from unweave.fit.recipe import Supervised
from unweave.optim import SAM
from unweave.prune import GMP, SNIP, Magnitude, RigL
from unweave.tasks import Labelled, Representing, requires
from unweave.unlearn import FineTune, SalUn


@pytest.mark.parametrize("name", ["fine-tune", "FineTune", "fine_tune", "FINE-TUNE", "finetune"])
def test_a_method_is_found_by_its_file_or_class_in_any_writing(name: str) -> None:
    assert find(name).cls is FineTune


def test_a_class_named_otherwise_than_its_file_is_found_by_both_names() -> None:
    found = {m.name: m.cls for m in methods()}
    named = {
        "one-shot": "Prune",
        "stable-max": "StableMaxCrossEntropy",
        "sparse-model-soups": "SparseModelSoup",
    }
    assert {name: found[name].__name__ for name in named} == named
    shared = {m.name: m.cls.__name__ for m in methods() if m.cls.__module__.endswith("prune.wanda")}
    assert shared == {"wanda": "Wanda", "wanda-prune": "WandaPrune"}
    for name, cls in {**named, **shared}.items():
        assert find(name).cls is find(cls).cls is found[name]


def test_a_name_nearly_right_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="there is no method 'saluun'. Did you mean salun"):
        find("saluun")
    with pytest.raises(InputError, match="there is no method 'xqzw'. See: unweave list"):
        find("xqzw")


def test_methods_are_in_order_of_family_and_name_and_no_name_is_taken_twice() -> None:
    found = [(FAMILIES.index(m.family), m.name) for m in methods()]
    assert found == sorted(found)
    names = [m.name for m in methods()]
    assert len(set(names)) == len(names)


def test_objects_are_named_as_on_the_command_line() -> None:
    assert name_of(SalUn()) == "salun"
    assert name_of(Supervised(network=lambda: nn.Linear(1, 1))) == "supervised"
    assert name_of(TwoWords()) == "two-words"


def test_roles_are_read_off_verbs() -> None:
    assert roles_of(GMP) == ("Edit", "SparseTraining")
    assert roles_of(RigL)[0] == "SparseTraining"
    assert roles_of(SNIP) == roles_of(Magnitude) == ("Score",)
    assert roles_of(SAM) == ("Optimizer",)
    assert roles_of(_Judges) == ("Loss",)
    assert roles_of(nn.ReLU) == ("Layer",)


class TwoWords:
    pass


class _Judges(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - targets


@dataclass
class _Needy:
    recipe: Any
    guide: str = "its own, not the request's"

    def apply(self, model: Any, data: Any) -> Any:
        requires(data.task, Labelled, "Needy")
        return _helper(data), self.guide


def _helper(data: Any) -> Any:
    return data.retain


@dataclass
class _Content:
    recipe: Any = None

    def apply(self, model: Any, data: Any) -> Any:
        requires(data.task, Representing, "Content")
        return data.forget


def test_needs_are_what_the_code_takes_from_what_it_is_given() -> None:
    assert needs_of(_Needy) == ("retain", "labels", "recipe")
    assert needs_of(_Content) == ("forget", "features")
