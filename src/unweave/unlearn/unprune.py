"""Un-pruning: forget in a pruned model's mask as well as in its weights.

Xiao, Li, Ji, Ye, Ma, Hui, "The Right to be Forgotten in Pruning: Unveil Machine Unlearning on Sparse
Models", 2025, arXiv 2507.18725. Which weights survived pruning depends on the deleted examples too, so an
unlearner that keeps the mask leaves their trace there. The goal is the mask and the weights of "train on the
retained examples from the same initial weights, then prune by the same rule", for a small share of that cost,
around any unlearner.

Three ways, in the order in which they came near that goal in our checks (docs/methods/unlearn/unprune.md):
"scout" and "rewind" are ours; "paper" follows the article's Algorithm 1, of which we know reviewers'
descriptions.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..settings import Count, Positive, Range, Whole, refuse_idle, settings
from ..types import Edit, Request
from ._topology_edit import Origin, Rule, floating, initial_like, move_, revived_positions
from ._train import check_request
from .suits import UNJUDGED, Unsuited

PAPER = Paper(
    "The Right to be Forgotten in Pruning: Unveil Machine Unlearning on Sparse Models",
    "Xiao, Li, Ji, Ye, Ma, Hui", "arXiv", 2025, "2507.18725",
)  # fmt: skip


@settings
class Unprune:
    """Give a pruned model a new mask and new weights, around any unlearner.

    Attributes:
        unlearn: the unlearner. In "scout" it works under the new mask, otherwise on the grown model before
            it is pruned again; it must keep a model's zeros, as all of this package do.
        recipe: how the model was made. Its `initial` must give the very weights that training began from (set
            `init_seed`), and these must not have seen the forgotten examples.
        mode: "scout" trains a copy from the initial weights on the retained examples for `scout_epochs`,
            takes the mask from it alone, keeps the model's own weights where both masks live and the scout's
            elsewhere, then unlearns. The new mask is a function of the initial weights and the retained
            examples only. "rewind" moves every weight back towards its initial value, revives the pruned
            ones, unlearns, prunes again. "paper" revives the pruned ones and leaves the survivors where they
            are.
        init: value of a revived weight in "rewind" and "paper": its "original" initial one, "random" from
            N(0, 1e-3), or "zero" (the smallest normal number, for an exact zero would be taken for pruned).
        growth: share of the pruned weights that is revived in a round, largest initial values first.
        rounds: how often revival and unlearning are repeated before pruning again.
        unit: "weight" or "filter", what was pruned together; None reads it off the recipe or the mask.
        scope: "layer" keeps each layer's count of survivors, "global" only their sum; None takes "global" if
            the recipe pruned with a global budget, else "layer".
        rewind: share of the way from the initial to the trained weights at which survivors start; None takes
            0.25 in "rewind" and 1 in "scout". Not for "paper", where it is 1.
        stretch: weights are scored as if they had moved this many times as far from their initial values,
            because a short training has gone only part of the way; None takes 1.25, in "paper" 1 (as they
            are).
        scout_epochs: passes of the scout over the retained examples; only for "scout".
        scout_lr: its peak learning rate; None takes the recipe's.
        scout_of: epochs over which its schedule falls; None takes the recipe's, so that the scout goes as an
            oracle's training begins. Equal to `scout_epochs`, the whole schedule is squeezed into these.
        recover_epochs: passes of the recipe's own training over the retained examples at the very end, under
            the new mask.
        recover_lr: peak learning rate of these.
    """

    unlearn: Edit[Request[Any]]
    recipe: Origin
    mode: Literal["scout", "rewind", "paper"] = "scout"
    init: Literal["original", "random", "zero"] = "original"
    growth: Annotated[
        float, Range(above=0, at_most=1, why="It is the share of the pruned weights revived in a round.")
    ] = 1.0
    rounds: Count = 1
    unit: Literal["weight", "filter"] | None = None
    scope: Literal["layer", "global"] | None = None
    rewind: Annotated[float, Range(at_least=0, at_most=1, why="0 is the initial weights.")] | None = None
    stretch: Annotated[float, Range(at_least=1)] | None = None
    scout_epochs: Count = 6
    scout_lr: Positive | None = None
    scout_of: Count | None = None
    recover_epochs: Whole = 0
    recover_lr: Positive = 0.02

    paper: ClassVar[Paper] = PAPER
    unsuited: ClassVar[Unsuited] = {
        "class": "",
        "random": "stops short of retrained models (position 0.66 to 0.75)",
        "small": UNJUDGED,
    }

    def __post_init__(self) -> None:
        if self.mode == "paper" and self.rewind not in (None, 1.0):
            raise InputError(
                "Unprune.rewind moves survivors, which mode='paper' leaves where they are. Use mode='rewind'."
            )
        if self.mode == "scout":
            refuse_idle(self, "init", "growth", "rounds", when="in mode='scout'")
        else:
            refuse_idle(self, "scout_epochs", "scout_lr", "scout_of", when=f"in mode={self.mode!r}")
        if self.scout_of is not None and self.scout_of < self.scout_epochs:
            raise InputError(
                f"Unprune.scout_of must be at least scout_epochs; got {self.scout_of} of {self.scout_epochs}."
            )
        if self.recover_epochs == 0:
            refuse_idle(self, "recover_lr", when="with recover_epochs=0")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator) -> Module:
        """Return a copy of `model` with another mask, as many survivors, and unlearned weights.

        Args:
            model: pruned, with exact zeros; left unchanged.
            data: the retained examples are trained on; what else is read is the unlearner's affair.
            rng: governs everything drawn.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the model is dense, the recipe cannot give its initial weights, or the mask
                contradicts `unit`.

        Warns:
            UserWarning: if less than 0.1 % of the survivors changed: the mask was as good as kept.
        """
        check_request("Unprune", data, rng)
        rule = Rule.read("Unprune", model, data.retain, self.recipe, self.unit, self.scope)
        mask = Mask.of(model)
        start = initial_like("Unprune", self.recipe, model)
        if self.mode == "scout":
            edited, kept = self._scout(model, start, rule, data, rng)
        else:
            edited, kept = self._regrow(model, start, rule, data, rng)
        kept.apply_(edited)
        if self.recover_epochs:
            self.recipe.train_(
                edited, data.retain, epochs=self.recover_epochs, lr=self.recover_lr, rng=rng, hold=kept
            )
        born = (kept - mask).count()
        if born < 0.001 * mask.count():
            warnings.warn(
                f"Unprune changed {born} of {mask.count()} surviving positions: the mask was as good as "
                "kept. Train longer, at a higher rate, or rewind further.",
                UserWarning,
                stacklevel=2,
            )
        return edited

    def _scout(
        self, model: Module, start: Module, rule: Rule, data: Request[Any], rng: Generator
    ) -> tuple[Module, Mask]:
        scout = deepcopy(start)
        self.recipe.train_(
            scout, data.retain, epochs=self.scout_epochs, lr=self.scout_lr or self.recipe.lr, rng=rng,
            of=self.scout_of or self.recipe.epochs,
        )  # fmt: skip
        kept = self._prune(scout, start, rule, data, rng)
        edited = copied(model)
        share = 1.0 if self.rewind is None else self.rewind
        move_(
            edited,
            start,
            share,
            revived_positions(Mask.of(model), model, scout, data.retain),
            floating(scout),
        )
        kept.apply_(edited)
        return self.unlearn.apply(edited, data, rng=rng), kept

    def _regrow(
        self, model: Module, start: Module, rule: Rule, data: Request[Any], rng: Generator
    ) -> tuple[Module, Mask]:
        edited = copied(model)
        share = 1.0 if self.mode == "paper" else 0.25 if self.rewind is None else self.rewind
        ranks = rule.scores(start, data.retain, rng)
        now = Mask.of(model)
        for round_ in range(self.rounds):
            alive = {
                name: score.masked_fill(now.keep[name].to(score.device), torch.inf)
                for name, score in ranks.items()
            }
            grown = rule.select(alive, edited, data.retain, grown=self.growth * (round_ + 1))
            whole = deepcopy(edited)
            revived, values = grown - now, self._values(start, rng)
            move_(whole, start, 1.0, dict(revived.keep), values)
            fresh = revived_positions(~revived, edited, whole, data.retain)
            move_(edited, start, share if round_ == 0 else 1.0, fresh, values)
            grown.apply_(edited)
            edited = self.unlearn.apply(edited, data, rng=rng)
            grown.apply_(edited)
            now = grown
        return edited, self._prune(edited, start, rule, data, rng)

    def _values(self, start: Module, rng: Generator) -> dict[str, Tensor]:
        """What revived positions start from; never exactly zero, which a reader of masks takes for dead."""
        values = {}
        for name, tensor in floating(start).items():
            value = tensor.detach()
            if tensor.ndim > 1 and self.init == "random":
                value = (1e-3 * torch.randn(tensor.shape, generator=rng)).to(tensor)
            elif tensor.ndim > 1 and self.init == "zero":
                value = torch.zeros_like(value)
            if tensor.ndim > 1:
                value = torch.where(value == 0, torch.finfo(value.dtype).tiny, value)
            values[name] = value
        return values

    def _prune(self, model: Module, start: Module, rule: Rule, data: Request[Any], rng: Generator) -> Mask:
        scored = copied(model)
        stretch = self.stretch or (1.0 if self.mode == "paper" else 1.25)
        if stretch > 1:
            origins = dict(start.named_parameters())
            with torch.no_grad():
                for name, weight in scored.named_parameters():
                    weight.copy_(torch.lerp(origins[name], weight, stretch))
        return rule.select(rule.scores(scored, data.retain, rng), scored, data.retain)
