"""Bad teacher: on the forget set learn from a network that knows nothing, elsewhere from the original.

Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using
an Incompetent Teacher", AAAI 2023, arXiv 2205.08096.

With u = 1 on F and 0 on R, the student s starts from the original t and minimises over F and a share of R,
shuffled into one set,
    1 / n * sum over n examples of KL(u softmax(b / T) + (1 - u) softmax(t / T) || softmax(s / T)),
where b is the bad teacher: the same network with fresh weights. No label is read.

Departures: the mean is over examples; the authors' code also divides by the number of classes, so their
learning rate is that many times larger. Both teachers are in eval mode. The bad teacher of a pruned model is
pruned alike.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Adam

from ..errors import InputError
from ..fit.batches import Mixed
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child, draw_seed, global_seed
from ..settings import Count, Positive, Range, settings
from ..tasks import refuse_measured
from ..types import Batch, Request, Task
from ._train import Trainee, check_request, reinitialise_
from .suits import UNJUDGED, Unsuited


@settings
class BadTeacher:
    """Distil an untrained network on the forget set and the original model on the rest.

    Attributes:
        epochs: passes over the forget set and the chosen share of the retain set.
        lr: learning rate of Adam.
        temperature: T, softens what both teachers and the student say.
        retain_share: share of the retain set that is read, drawn once.
        reset: how the bad teacher gets its fresh weights: "layers" initialises every layer as it was when
            made; "shuffle" permutes the entries of every parameter, for networks with layers that cannot do
            that.
    """

    paper: ClassVar[Paper] = Paper(
        title="Can Bad Teaching Induce Forgetting? Unlearning in Deep Networks Using an Incompetent Teacher",
        authors="Chundawat, Tarun, Mandal, Kankanhalli",
        venue="AAAI",
        year=2023,
        arxiv="2205.08096",
    )
    unsuited: ClassVar[Unsuited] = {
        "class": "stops short of retrained models (position 0.25 to 0.45)",
        "random": "does not forget single examples (position 0.00)",
        "small": UNJUDGED,
    }

    epochs: Count = 5
    lr: Positive = 1e-4
    temperature: Positive = 1.0
    retain_share: Annotated[
        float, Range(above=0, at_most=1, why="It keeps the student near the original (paper: 0.3).")
    ] = 0.3
    reset: Literal["layers", "shuffle"] = "layers"

    def apply(
        self, model: Module, data: Request[Task], *, rng: Generator, only: Mask | None = None
    ) -> Module:
        """Return a copy of `model` that answers like an untrained network on `data.forget`.

        Args:
            model: the good teacher; left unchanged.
            data: the held-out set is not read.
            rng: governs the bad teacher, the share of the retain set and batch order.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if a layer cannot be initialised afresh and `reset` is "layers".
        """
        check_request("BadTeacher", data, rng)
        task = data.retain.task
        refuse_measured(task, "BadTeacher")
        good = copied(model).eval().requires_grad_(False)
        bad = Mask.of(model).apply_(untrained(model, self.reset, rng).eval().requires_grad_(False))
        some = torch.randperm(len(data.retain), generator=child(rng))
        retain = data.retain.subset(some[: max(1, round(self.retain_share * len(some)))])

        def imitate(student: Module, batch: tuple[Batch, Tensor]) -> Tensor:
            examples, positions = batch
            with torch.no_grad():
                kept, lost = task.outputs(good, examples), task.outputs(bad, examples)
            u = (positions < len(data.forget)).to(kept)
            return taught(task.outputs(student, examples), kept, lost, u, self.temperature)

        student = Trainee.of("BadTeacher", copied(model), partial(Adam, lr=self.lr), rng, only=only)
        student.train_(Mixed(data.forget, retain), imitate, epochs=self.epochs, label="bad teacher")
        return student.model


def taught(student: Tensor, good: Tensor, bad: Tensor, u: Tensor, temperature: float) -> Tensor:
    """Mean over examples of KL(u bad + (1 - u) good || student) in nats.

    Args:
        student: logits [n, classes], as are `good` and `bad`.
        good: of the competent teacher.
        bad: of the incompetent one.
        u: weight of the bad teacher for each example, in [0, 1], [n].
        temperature: divides all logits.

    Raises:
        InputError: if the outputs are no logits of classes.
    """
    if student.ndim != 2:
        raise InputError(
            f"BadTeacher compares classes: outputs must be [n, classes]; got {list(student.shape)}."
        )
    u = u[:, None]
    target = u * (bad / temperature).softmax(-1) + (1 - u) * (good / temperature).softmax(-1)
    return F.kl_div((student / temperature).log_softmax(-1), target, reduction="batchmean")


def untrained(model: Module, reset: Literal["layers", "shuffle"], rng: Generator) -> Module:
    """A copy of `model` that has lost what it learned: fresh weights, drawn from `rng`.

    Raises:
        InputError: if `reset` is "layers" and a layer with parameters of its own has no `reset_parameters`.
    """
    blank = copied(model).requires_grad_(True)
    with global_seed(draw_seed(rng)), torch.no_grad():
        if reset == "shuffle":
            for parameter in blank.parameters():
                order = torch.randperm(parameter.numel()).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
            return blank
        reinitialise_(blank.named_modules(), "BadTeacher", "Set reset='shuffle'.")
    return blank
