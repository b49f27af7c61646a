"""The comparison that names and flags of `unweave compare` stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..catalogue import find
from ..errors import InputError
from ..jobs.compare import CompareJob
from ..jobs.curves import along
from ..jobs.subject import Subject
from ._named import unlearner
from ._optimizers import torch_optimizer
from ._recipes import OWN, changed, prunes, refuse_idle_sparsity, trained_with
from ._selection import selected

DENSE = "dense"
"""The name of the recipe without its pruning, the band behind curves over sparsity."""


def compared(asked: Any, subject: Subject, unlearners: Sequence[str]) -> CompareJob:
    """Make the job from all flags.

    Args:
        asked: parsed options.
        subject: that was named.
        unlearners: the chains of `asked.methods` that edit a model instead of training one.

    Raises:
        InputError: if the recipe cannot be changed so, or a flag would do nothing.
    """
    recipe: Any = subject.require_recipe("nothing can be trained", "Define `recipe` in project.py.")
    if asked.epochs is not None:
        recipe = changed(recipe, epochs=asked.epochs)
        subject = replace(subject, recipe=recipe)
    how: dict[str, Any] = _curves(asked, recipe, unlearners) if len(asked.sparsity) > 1 else {}
    if not how:
        once = replace(asked, sparsity=next(iter(asked.sparsity), None))
        how = {"methods": {chain: _made(chain, once, recipe, subject, unlearners) for chain in asked.methods}}
        if not unlearners:
            made = [r for r in how["methods"].values() if r is not None]
            refuse_idle_sparsity(once.sparsity, recipe, made)
    return CompareJob(
        **how, baseline=asked.baseline, seeds=asked.seeds, engine=asked.engine, hardest=asked.hardest,
        **selected(asked, subject, needed=bool(unlearners)),
    )  # fmt: skip


def unlearns(chain: str) -> bool:
    """Whether a chain of names edits a model."""
    names = [name for name in chain.split("+") if name and name != OWN and torch_optimizer(name) is None]
    return any(find(name).family == "unlearn" for name in names)


def _made(chain: str, asked: Any, recipe: Any, subject: Subject, unlearners: Sequence[str]) -> Any:
    if chain == OWN:
        return None
    return unlearner(chain, asked, subject) if chain in unlearners else trained_with(recipe, chain, asked)


def _curves(asked: Any, recipe: Any, unlearners: Sequence[str]) -> dict[str, Any]:
    """Each way to prune at each sparsity, beside what does not prune; the dense recipe where none was named."""
    if unlearners:
        raise InputError(
            f"several --sparsity draw curves of ways to prune; {', '.join(unlearners)} edit a model. Give one."
        )
    first = replace(asked, sparsity=asked.sparsity[0])
    at_first = {
        chain: trained_with(recipe, chain, first) if chain != OWN else recipe for chain in asked.methods
    }
    pruning = [chain for chain, made in at_first.items() if chain != OWN and prunes(made, recipe)]
    refuse_idle_sparsity(asked.sparsity[0], recipe, [at_first[chain] for chain in pruning])
    own: dict[str, Any] = {f: None for f in ("prune", "sparse") if getattr(recipe, f, None) is not None}
    own |= {"recover_epochs": 0} if "prune" in own and hasattr(recipe, "recover_epochs") else {}
    bands = {
        chain: None if chain == OWN else made for chain, made in at_first.items() if chain not in pruning
    }
    if not bands or (own and set(bands) == {OWN}):
        bands = {DENSE: changed(recipe, **own), **bands}
    lines = {chain: partial(_at, recipe, chain, asked) for chain in pruning}
    methods, curves = along(lines, asked.sparsity)
    return {"methods": {**bands, **methods}, "curves": curves}


def _at(recipe: Any, chain: str, asked: Any, sparsity: float) -> Any:
    return trained_with(recipe, chain, replace(asked, sparsity=sparsity))
