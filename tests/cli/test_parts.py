"""The parts of the command line on their own: what names, flags and verdicts become, without a run."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.optim import SGD, AdamW

from unweave import Supervised
from unweave.audit.result import Audit, Verdict
from unweave.cli import COMMANDS, _packages, main
from unweave.cli._fields import field_prose
from unweave.cli._judged import carry_out
from unweave.cli._named import unlearner
from unweave.cli._optimizers import optimizer
from unweave.cli._parse import named_methods, named_run
from unweave.cli._pruners import pruner
from unweave.cli._recipes import trained_with
from unweave.cli._selection import selected
from unweave.embedded.nets import mlp
from unweave.errors import InputError
from unweave.jobs import Audited, Texts, embedded
from unweave.jobs.compare import CompareJob
from unweave.masks.scope import Scope
from unweave.optim import SAM
from unweave.prune import GMP, NM, Channel, Global, Prune, Uniform
from unweave.unlearn import SalUn, Unprune

RECIPE = Supervised(network=partial(mlp, 8, 3), momentum=0.8, weight_decay=0.0)
PLAIN = SimpleNamespace(base="", sparsity=None)


def test_another_optimiser_takes_over_the_recipes_own_settings() -> None:
    made = trained_with(RECIPE, "sam", PLAIN)
    assert made.optimizer.func is SAM
    own = made.optimizer.keywords["base"]
    assert own.func is SGD
    assert own.keywords == {"momentum": 0.8, "nesterov": True, "weight_decay": 0.0}
    fresh = Supervised(network=RECIPE.network)
    assert (made.momentum, made.weight_decay) == (fresh.momentum, fresh.weight_decay)


def test_without_momentum_there_is_no_nesterov() -> None:
    make = optimizer(SAM, None, replace(RECIPE, momentum=0.0), "")
    assert make is not None
    assert make.keywords["base"].keywords["nesterov"] is False  # type: ignore[attr-defined]
    other = optimizer(SAM, None, RECIPE, "adamw")
    assert other is not None
    assert other.keywords == {"base": AdamW, "weight_decay": 0.0}  # type: ignore[attr-defined]


def test_a_sparse_training_takes_the_place_of_pruning_afterwards() -> None:
    pruned = replace(RECIPE, prune=Prune(budget=Global(0.5)), recover_epochs=3)
    made = trained_with(pruned, "gmp", SimpleNamespace(base="", sparsity=0.7))
    assert made.sparse == GMP(budget=Global(0.7))
    assert made.prune is None
    assert made.recover_epochs == 0
    again = trained_with(pruned, "magnitude", SimpleNamespace(base="", sparsity=0.7))
    assert again.prune == Prune(budget=Global(0.7))
    assert again.recover_epochs == 3


def test_the_first_name_of_a_chain_is_outermost() -> None:
    made: Any = unlearner("unprune+salun", SimpleNamespace(), embedded())
    assert isinstance(made, Unprune)
    assert isinstance(made.unlearn, SalUn)


def pruning(**given: Any) -> SimpleNamespace:
    asked = {"method": "magnitude", "sparsity": None, "pattern": "unstructured", "budget": None}
    asked |= {"only": (), "skip": (), "least": 0.9, "texts": Texts(), "heads": Channel().heads}
    return SimpleNamespace(**{**asked, **given})


def test_layers_are_chosen_by_name_for_every_kind_of_method() -> None:
    chosen = {"only": ("encoder.*",), "skip": ("encoder.stem",), "least": 0.5}
    for method in ("taylor", "gmp", "sparse-gpt", "soft-filter"):
        made: Any = pruner(pruning(method=method, **chosen))
        scope = made.score.scope if isinstance(made, Prune) else made.scope
        assert scope == Scope(**chosen, last=method != "soft-filter"), (
            method
        )  # its own: classes are no filters


def test_whole_channels_leave_the_classes_alone() -> None:
    made: Any = pruner(pruning(pattern="channel", budget="uniform", sparsity=0.3))
    assert made.pattern == Channel()
    assert made.budget == Uniform(0.3)
    assert made.score.scope == Scope(last=False)
    plain: Any = pruner(pruning())
    assert plain.score.scope == Scope()
    assert plain.budget == Global(0.9)
    half: Any = pruner(pruning(pattern="channel", sparsity=0.5))
    assert half.budget == Uniform(0.5)  # of every layer; under one threshold the small ones fall
    whole: Any = pruner(pruning(pattern="channel", sparsity=0.5, budget="global"))
    assert whole.budget == Global(0.5)
    assert pruner(pruning(pattern="1:4")).pattern == NM(1, 4)  # type: ignore[attr-defined]


def test_methods_are_named_apart_by_spaces_or_commas() -> None:
    flags = ("--method", "--compare")
    argv = ("--method", "a+b", "--ids", "x.txt", "--compare", "c,d", "e", "--random", "3")
    assert named_methods(argv, flags, "z") == ["a+b", "c", "d", "e"]
    assert named_methods(("--method=a,b", "--compare", "c"), flags, "z") == ["a", "b", "c"]
    assert named_methods(("--random", "3"), flags, "z") == ["z"]


def test_a_run_is_named_by_all_that_makes_it() -> None:
    names = [
        named_run("prune", plan, project, seed)
        for plan, project, seed in (({"a": 1}, "p", 0), ({"a": 2}, "p", 0), ({"a": 1}, "q", 0), ({"a": 1}, "p", 1))
    ]  # fmt: skip
    assert len(set(names)) == 4
    assert names[0] == named_run("prune", {"a": 1}, "p", 0)
    assert names[0].parent == Path("runs")


def test_the_help_of_a_field_has_all_its_lines() -> None:
    class Settings:
        """A class.

        Attributes:
            first: begins here
                and ends there.
            second: one line.

        More prose.
        """

    assert field_prose(Settings) == {"first": "begins here and ends there.", "second": "one line."}


class Silent(Audited):
    """Prints nothing."""

    def tell(self, out: Any) -> None: ...


@dataclass
class Job:
    """Stands for a job that ends with an outcome."""

    outcome: Any
    subject = SimpleNamespace(recipe=None, train=None)

    def plan(self) -> dict[str, Any]:
        return {}

    def run(self, out: Path, *, command: Any = ()) -> Any:
        found = [
            Audit(kind="classifier", method=m, verdict=Verdict(outcome=word, reason=""))
            for m, word in (("first", self.outcome), ("second", "forgotten"))
        ]
        return Silent(out, tuple(found))

    def estimate(self) -> dict[str, float]:
        return {"train": 2.0, "audit": 1.5}


@pytest.mark.parametrize(("outcome", "code"), [("forgotten", 0), ("not forgotten", 3), ("inconclusive", 3)])
def test_the_exit_code_says_whether_the_handed_out_model_forgot(outcome: str, code: int) -> None:
    asked = SimpleNamespace(
        dry_run=False, out=Path("x"), json=False, tracker=None, project="", seed=0, model=None
    )
    assert carry_out(Job(outcome), asked, "forget", []) == code  # type: ignore[arg-type]


def test_an_estimate_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    asked = SimpleNamespace(dry_run=True, out=None, json=True)
    assert carry_out(Job("forgotten"), asked, "forget", []) == 0  # type: ignore[arg-type]
    assert json.loads(capsys.readouterr().out) == {"seconds": {"train": 2.0, "audit": 1.5}, "total": 3.5}


def test_of_the_embedded_digits_a_fifth_goes_where_nothing_is_named() -> None:
    asked = SimpleNamespace(
        ids=None, classes=(), where="", random=None, project="", seed=4, jobs=0, cache=None
    )
    found = selected(asked, embedded())
    assert found["random"] == 180
    assert found["jobs"] is None
    assert selected(asked, embedded(), needed=False)["random"] is None
    with pytest.raises(InputError, match="nothing to forget was named"):
        selected(SimpleNamespace(**{**vars(asked), "project": "project.py"}), embedded())


@pytest.mark.parametrize(("failed", "code"), [([], 0), ("a trial", 3)])
def test_a_failed_trial_shows_in_the_exit_code(
    failed: Any, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = SimpleNamespace(failed=failed, show=lambda: None)
    monkeypatch.setattr(CompareJob, "run", lambda *_, **__: done)
    assert main(("compare", "--methods", "recipe", "sgd", "--seeds", "1", "--out", str(tmp_path))) == code


def test_an_interrupt_says_that_the_run_can_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import unweave.cli.list as listing

    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "run", interrupted)
    assert "list" in COMMANDS
    assert main(("list",)) == 130
    assert "Run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "code"), [("ok", 0), ("absent", 0), ("broken", 2), ("absent, needed", 2)]
)  # fmt: skip
def test_what_is_broken_or_needed_shows_in_the_exit_code(
    state: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check = {"name": "x", "state": "ok", "detail": ""}
    monkeypatch.setattr(_packages, "_import_together", lambda names: set())
    monkeypatch.setattr(_packages, "_package", lambda name, *_: {**check, "name": name})
    monkeypatch.setattr(_packages, "_torchvision", lambda *_: {**check, "state": state})
    assert main(("doctor", "--json")) == code
    assert json.loads(capsys.readouterr().out)["healthy"] is (code == 0)
    assert main(("doctor",)) == code
