"""S3T: exact deletion by switching adapters off, since each group of blocks only ever saw a prefix of the slices.

Basu Roy Chowdhury, Choromanski, Sehanobish, Dubey, Chaturvedi, "Towards Scalable Exact Machine Unlearning Using
Parameter-Efficient Fine-Tuning", ICLR 2025, arXiv 2406.16257. Data lie in m shards of L slices. For an order pi of a
shard's slices, stage i trains low-rank adapters (rank-stabilised LoRA, on queries and values) in the i-th group of
blocks, counted from the top, and the head, on the union of slices pi_1 ... pi_i; all before stays as it was. Deleting
an example of slice pi_j switches the groups j ... L off and takes the head of stage j - 1: what is left never saw it.
B orders a shard are trained in advance, so that many deletions need no training (sections 3 and 4).

Departures. Places follow from an example's own id by a hash, so slices are of nearly equal size. Stages of orders that
begin alike are trained once. A stage draws from a seed of its own, which follows from the shard and the slices it
sees. Nothing is chosen by held-out data: each stage trains a fixed number of epochs, and of equally long prefixes the
first order's serves. Blocks, projections and head are found by structure; block numbers are counted, not searched for
in names (in the published scripts "layer.1" also meets layers 10 and 11, which trains groups again that an earlier
stage had finished), and slices must divide the blocks (there, the rest is dropped).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..paper import Paper
from ..random import child, draw_seed, require_generator, seeded
from ..settings import Count, NonNegative, Part, Positive, Share, refuse_idle, settings
from ..types import Data
from .exact.adapters import Adapters
from .exact.ensemble import Aggregate, Ensemble
from .exact.orders import Selector, sequences
from .exact.service import Service, begun


@settings
class S3T:
    """Adapt a frozen transformer so that examples can be deleted exactly, mostly without any training.

    Attributes:
        pretrained_on: what the base model was trained on, as your statement that none of it can be asked back: a base
            that saw deletable data voids all exactness.
        shards: m, predictors that never see each other's data.
        slices: L, of each shard; must divide the number of blocks.
        budget: B, orders trained for each shard; as many as slices unless given.
        selector: how orders are chosen: "cyclic" rotations, "matching" or "sampling" by `prior`.
        prior: probability that a deletion hits each slice, from history; () are equal ones.
        rank: of the adapters.
        alpha: their scale is alpha / sqrt(rank); the rank unless given.
        dropout: before the adapters.
        epochs: of each stage.
        lr: of AdamW, falling linearly to 0 over a stage.
        weight_decay: of AdamW.
        first: which blocks the first stage adapts: "top", the last ones (paper), or "bottom".
        head: "per-stage" trains it on at every stage and stores it with each; "frozen" leaves it as in the base.
        aggregate: "mean" of the shards' logits, or majority "vote".
        layers: name of the list of blocks; found by structure unless given.
        targets: names, within a block, of the layers to adapt; queries and values, found by structure, unless given.
        heads: names of the modules trained at every stage; the last linear layer outside the blocks unless given.
    """

    pretrained_on: str
    shards: Count = 5
    slices: Count = 6
    budget: Count | None = None
    selector: Selector = "cyclic"
    prior: tuple[Share, ...] = ()
    rank: Count = 16
    alpha: Positive | None = None
    dropout: Part = 0.1
    epochs: Count = 15
    lr: Positive = 2e-4
    weight_decay: NonNegative = 0.0
    first: Literal["top", "bottom"] = "top"
    head: Literal["per-stage", "frozen"] = "per-stage"
    aggregate: Aggregate = "mean"
    layers: str = ""
    targets: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    paper: ClassVar[Paper] = Paper(
        "Towards Scalable Exact Machine Unlearning Using Parameter-Efficient Fine-Tuning",
        "Basu Roy Chowdhury, Choromanski, Sehanobish, Dubey, Chaturvedi", "ICLR", 2025, "2406.16257",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.pretrained_on.strip():
            raise InputError(
                "S3T.pretrained_on is empty. Say what the base model was trained on, if none of it can be asked back; "
                "if some can, nothing deletes it from the base, and S3T is the wrong way."
            )
        if self.head == "frozen":
            refuse_idle(self, "heads", when='with head="frozen"')
        self.orders(seeded(0))

    def orders(self, rng: Generator) -> tuple[tuple[int, ...], ...]:
        """The orders of a shard; `rng` is drawn from by the selector "sampling" alone."""
        budget = self.slices if self.budget is None else self.budget
        try:
            return sequences(self.slices, budget, self.prior or None, self.selector, rng)
        except InputError as error:
            raise InputError(f"S3T.{error}") from error

    def adapt(
        self,
        model: Module,
        data: Data[Any],
        *,
        rng: Generator,
        ids: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Ensemble:
        """Train every stage of every order.

        Args:
            model: the base; left unchanged. It must not have seen `data`.
            data: to train on.
            rng: all seeds follow from it.
            ids: of the examples, to delete them by; those of the data unless given (see `unweave.types.Data`).
            groups: one value an example; examples of one group share a slice, so that the deletion of a person hits
                one.

        Returns:
            The ensemble; its `forget(ids)` deletes.

        Raises:
            EmptyDataError: if `data` is empty.
            InputError: if blocks, projections or head cannot be found, the slices do not divide the blocks, or no
                order of a shard begins with a slice that has an example.
            MissingExtraError: without peft.
        """
        service = self.begin(model, data, rng=rng, ids=ids, groups=groups)
        return Ensemble.of(service.retrained(data, ids=ids)[0], self.aggregate)

    def begin(
        self,
        model: Module,
        data: Data[Any],
        *,
        rng: Generator,
        ids: Sequence[Any] | None = None,
        groups: Sequence[Any] | None = None,
    ) -> Service:
        """All examples placed, and nothing trained yet; arguments as in `adapt`."""
        data.require_examples("S3T")
        require_generator(rng)
        stages = Adapters.of(model, data, self)
        return begun(
            stages,
            data,
            self.orders(child(rng)),
            shards=self.shards,
            seed=draw_seed(rng),
            ids=ids,
            groups=groups,
        )
