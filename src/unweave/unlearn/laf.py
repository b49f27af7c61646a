"""LAF: without any label, push the forget set's representations out of their own density and hold the others in theirs.

Shen, Zhang, Zhao, Bialkowski, Chen, Xu, "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models", ICLR
2024, arXiv 2404.00506.

With g the layers under the head, g_D those of the original model, F and R batches of the forget and the retain set:
    1. h models the density of g_D(x) over F and R together, h_f that over F alone.
    2. For each pair of batches two Adam steps, each with its own state:
       L_UE = sum over R of phi(u(g(x))) - sum over F of phi(u_f(g(x))), u(e) = |h(e) - e|^2, phi(u) = exp(u / (u + 1))
       L_RA = sum over i in R of log(exp(delta_i) / sum over j in F of exp(delta_j / tau)),   delta = 1 - cos(g, g_D)
    3. Optionally g is frozen, and the head learns from a labelled share of R (LAF+R).

A density is a variational autoencoder with a sampled latent; its loss a batch is (squared error + kl KL) / B. The head
gets no gradient from step 2.

Departures: the decoder's output is linear, as a sigmoid cannot say what lies outside (0, 1), so that every distance is
large and phi flat (`decoder="sigmoid"` is the authors'). A small forget set is passed over more often, until there are
`least_steps` steps: the authors' 20 passes over four batches forget nothing. h sees F too, as in their code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module, Parameter
from torch.optim import Adam, Optimizer
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..fit import Loop, fit_
from ..fit.batches import Paired, joined
from ..masks.layers import copied
from ..masks.mask import Mask
from ..paper import Paper
from ..random import child, draw_seed, global_seed
from ..settings import Count, NonNegative, Positive, Range, Share, SomeShare, Whole, refuse_idle, settings
from ..tasks import Representing, evaluating, predict, requires
from ..types import Batch, Data, Request
from ._density import VAE, Gaussian, vae_loss
from ._train import Trainee, check_request
from .suits import UNJUDGED, Unsuited

_DENSITY = ("density", "decoder", "latent", "hidden", "density_epochs", "density_lr", "kl", "phi", "level")
Reader = Callable[[Module, Batch], Tensor]
"""(model, batch) -> its representation, [n, width]."""


@settings
class LAF:
    """Forget without labels, by moving representations.

    Attributes:
        epochs: passes over the smaller of the forget and the retain set, each batch beside one of the other.
        least_steps: pairs of steps at the least: `epochs` is raised until there are as many.
        lr_unlearn: learning rate of the density step (L_UE); 0 leaves it out.
        lr_align: learning rate of the alignment step (L_RA); 0 leaves it out.
        temperature: tau, softens the forget set's part in L_RA; the paper has 5 or 20.
        batch_size: examples of either set a step, and a batch of the density models. L_UE is a sum over it.
        retain_share: share of the retain set that is read, drawn once.
        norms: "frozen" trains in eval mode, so that batch normalisation keeps its running statistics and dropout is
            off (the authors'); "train" trains in train mode.
        layer: name of the module whose input is the representation; "" takes what the task calls features.
        density: "vae", or "gaussian", a normal distribution with diagonal covariance: u is then the mean over
            dimensions of the squared distance from its mean, in variances.
        decoder: output of the autoencoder; "sigmoid" keeps it in (0, 1).
        latent: its latent dimensions; the paper has 8 for a small CNN and 16 for ResNet-18.
        hidden: widths of its encoder's hidden layers; the decoder mirrors them.
        density_epochs: passes over the representations.
        density_lr: learning rate of Adam on these.
        kl: weight of the KL divergence beside the squared error.
        phi: what bounds a distance u: "ratio" is exp(u / (u + 1)), "tanh" is level tanh(u / level), "clip" is
            min(u, level).
        level: of "tanh" and "clip", in units of u.
        repair: share of the retain set whose labels then train the head (LAF+R); 0 reads no label.
        repair_epochs: passes over it.
        repair_lr: learning rate of Adam on the head.
    """

    paper: ClassVar[Paper] = Paper(
        title="Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models",
        authors="Shen, Zhang, Zhao, Bialkowski, Chen, Xu",
        venue="ICLR",
        year=2024,
        arxiv="2404.00506",
    )
    unsuited: ClassVar[Unsuited] = {
        "class": "stops short of retrained models at its defaults (position -0.01 to 0.62)",
        "random": "does not forget single examples at its defaults (position -0.13 to 0.02)",
        "small": UNJUDGED,
    }

    epochs: Count = 20
    least_steps: Whole = 400
    lr_unlearn: NonNegative = 5e-5
    lr_align: NonNegative = 1e-4
    temperature: Positive = 20.0
    batch_size: Count = 32
    retain_share: SomeShare = 1.0
    norms: Literal["frozen", "train"] = "frozen"
    layer: str = ""
    density: Literal["vae", "gaussian"] = "vae"
    decoder: Literal["linear", "sigmoid"] = "linear"
    latent: Count = 8
    hidden: tuple[Count, ...] = (128, 32)
    density_epochs: Count = 10
    density_lr: Positive = 1e-3
    kl: NonNegative = 0.025
    phi: Literal["ratio", "tanh", "clip"] = "ratio"
    level: Positive = 1.0
    repair: Annotated[Share, Range(why="It is the share of the retain set whose labels are read.")] = 0.0
    repair_epochs: Count = 5
    repair_lr: Positive = 1e-3

    def __post_init__(self) -> None:
        if self.lr_unlearn == self.lr_align == 0:
            raise InputError("LAF.lr_unlearn and lr_align must not both be 0: nothing would be trained.")
        if self.lr_unlearn == 0:
            refuse_idle(self, *_DENSITY, when="with lr_unlearn=0")
        if self.lr_align == 0:
            refuse_idle(self, "temperature", when="with lr_align=0")
        if self.density == "gaussian":
            refuse_idle(self, *_DENSITY[1:7], when="with density='gaussian'")
        if self.phi == "ratio":
            refuse_idle(self, "level", when="with phi='ratio'")
        if self.repair == 0:
            refuse_idle(self, "repair_epochs", "repair_lr", when="with repair=0")

    def apply(self, model: Module, data: Request[Any], *, rng: Generator, only: Mask | None = None) -> Module:
        """Return a copy of `model` whose representations of `data.forget` have moved; reads no label without `repair`.

        Args:
            model: left unchanged. Its head, all that the representation does not depend on, moves only in a repair.
            data: the held-out set is not read.
            rng: governs the share of the retain set, the density models, their noise, and batch order.
            only: positions that may move; all others keep their bits.

        Raises:
            EmptyDataError: if the forget or the retain set is empty.
            InputError: if the model shows no representation of shape [n, width], every parameter under it (or, in a
                repair, above it) is frozen, or a Gaussian is asked for of examples that are all alike.
            NonFiniteError: if a training diverges.
        """
        check_request("LAF", data, rng)
        student, teacher = copied(model), copied(model).eval().requires_grad_(False)
        task, hold = data.retain.task, Mask.of(model)
        read, taught = reader(task, student, self.layer), reader(task, teacher, self.layer)
        some = torch.randperm(len(data.retain), generator=child(rng))
        some = some[: max(1, round(self.retain_share * len(some)))]
        forget, retain = (
            replace(part, batch_size=self.batch_size) for part in (data.forget, data.retain.subset(some))
        )
        head = head_of(student, read, next(forget.batches()))
        steps = self._steps(teacher, taught, forget, retain, read, rng)
        in_turn = partial(_InTurn, lrs=[lr for lr, _ in steps])
        trainee = Trainee.of("LAF", student, in_turn, rng, only=only, hold=hold)
        optimizer, swap = trainee.optimizer, forget.steps > retain.steps
        assert isinstance(optimizer, _InTurn)

        def step(m: Module, pair: tuple[Batch, Batch]) -> Tensor:
            lost, kept = reversed(pair) if swap else pair
            return steps[optimizer.turn][1](self._mode_(m), lost, kept)

        pairs = Paired(retain, forget) if swap else Paired(forget, retain)
        epochs = max(self.epochs, -(-self.least_steps // pairs.main.steps))
        trainee.train_(pairs, step, epochs=epochs, norms=self.norms, label="laf")
        if self.repair:
            labelled = retain.subset(range(max(1, round(self.repair * len(retain)))))
            self._repair_(replace(trainee, optimizer=_head_adam(head, self.repair_lr)), labelled)
        return student

    def _steps(
        self, teacher: Module, taught: Reader, forget: Data[Any], retain: Data[Any], read: Reader, rng: Generator,
    ) -> list[tuple[float, Callable[[Module, Batch, Batch], Tensor]]]:  # fmt: skip
        """Learning rate and loss (student, forget batch, retain batch) of each of the steps on a pair."""
        phi = partial(bounded, phi=self.phi, level=self.level)
        steps: list[tuple[float, Callable[[Module, Batch, Batch], Tensor]]] = []
        if self.lr_unlearn:
            lost, every = predict(teacher, forget, taught), predict(teacher, joined(forget, retain), taught)
            device = next(teacher.parameters()).device
            h = self._fitted(every, retain.task, rng, "of all").to(device)
            h_f = self._fitted(lost, retain.task, rng, "of the forget set").to(device)

            def unlearn(m: Module, f: Batch, r: Batch) -> Tensor:
                return phi(h.distance(read(m, r))).sum() - phi(h_f.distance(read(m, f))).sum()

            steps.append((self.lr_unlearn, unlearn))
        if self.lr_align:

            def drift(m: Module, batch: Batch) -> Tensor:
                with torch.no_grad():
                    before = taught(teacher, batch)
                return 1 - F.cosine_similarity(read(m, batch), before, dim=1)

            def align(m: Module, f: Batch, r: Batch) -> Tensor:
                return alignment(drift(m, f), drift(m, r), self.temperature)

            steps.append((self.lr_align, align))
        return steps

    def _fitted(self, e: Tensor, task: Any, rng: Generator, what: str) -> VAE | Gaussian:
        """The density model of representations [n, width], frozen; the task only makes them data."""
        if self.density == "gaussian":
            return Gaussian(e)
        with global_seed(draw_seed(rng)):
            vae = VAE(e.shape[1], self.hidden, self.latent, self.decoder)

        def loss(m: Module, batch: tuple[Tensor]) -> Tensor:
            reconstruction, mean, log_variance = m(batch[0])
            return vae_loss(batch[0], reconstruction, mean, log_variance, self.kl)

        fit_(
            vae, Data(TensorDataset(e), task, self.batch_size), loss, Adam(vae.parameters(), self.density_lr),
            epochs=self.density_epochs, rng=rng, loop=Loop(label=f"laf: density {what}"),
        )  # fmt: skip
        return vae.requires_grad_(False)

    def _repair_(self, trainee: Trainee, labelled: Data[Any]) -> None:
        """Train the head on labelled examples."""
        task = labelled.task
        trainee.train_(
            labelled, lambda m, batch: task.losses(self._mode_(m), batch).mean(),
            epochs=self.repair_epochs, norms="frozen", label="laf: repair",
        )  # fmt: skip

    def _mode_(self, model: Module) -> Module:
        return model.eval() if self.norms == "frozen" else model


def bounded(u: Tensor, *, phi: Literal["ratio", "tanh", "clip"] = "ratio", level: float = 1.0) -> Tensor:
    """A distance with a ceiling, so that to grow one for ever does not pay; see `LAF.phi`.

    Example:
        >>> bounded(torch.tensor([0.0, 1.0]))  # 1 and exp(1 / 2)
        tensor([1.0000, 1.6487])
    """
    if phi == "ratio":
        return (u / (u + 1)).exp()
    return level * (u / level).tanh() if phi == "tanh" else u.clamp(max=level)


def alignment(forget: Tensor, retain: Tensor, temperature: float) -> Tensor:
    """L_RA of drifts [f] and [r] from the teacher: sum over the retained of the log-ratio; unequal sizes are as given.

    Example:
        >>> alignment(torch.zeros(2), torch.tensor([0.5, 0.0, 1.0]), 20.0)  # 1.5 - 3 log 2
        tensor(-0.5794)
    """
    return (retain - (forget / temperature).logsumexp(0)).sum()


def reader(task: Any, model: Module, layer: str) -> Reader:
    """What reads the representation off `model`: the task's features, or the input of a layer of that name.

    Raises:
        InputError: if the task has no features and no layer is named, or there is none of that name. The reader
            raises it where the layer does not run or what it reads is not [n, width].
    """
    if not layer:
        requires(task, Representing, "LAF without layer")
        return lambda m, batch: _flat(task.features(m, batch), "the task's features")
    head = dict(model.named_modules()).get(layer)
    if head is None:
        names = [name for name, _ in model.named_modules() if name]
        raise InputError(
            f"LAF.layer={layer!r} is no module of the model. Name the one whose input is the representation, among "
            f"{', '.join(names[-10:])}."
        )

    def read(m: Module, batch: Batch) -> Tensor:
        seen: list[Any] = []
        hook = head.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[:1]))
        try:
            task.outputs(m, batch)
        finally:
            hook.remove()
        if not seen:
            raise InputError(
                f"LAF.layer={layer!r} was given no input; name a layer that the model calls with one."
            )
        return _flat(seen[-1], f"the input of {layer!r}")

    return read


def _flat(e: Any, what: str) -> Tensor:
    if not isinstance(e, Tensor) or e.ndim != 2:
        shape = list(e.shape) if isinstance(e, Tensor) else type(e).__name__
        raise InputError(
            f"LAF needs a representation of shape [n, width]; {what} has {shape}. Name in LAF.layer a layer that comes "
            "after the pooling or flattening."
        )
    return e if e.dtype in (torch.float32, torch.float64) else e.float()


def head_of(model: Module, read: Reader, batch: Batch) -> list[Parameter]:
    """Parameters that are not frozen and that the representation does not depend on.

    Raises:
        InputError: if it depends on none that is not frozen.
    """
    own = [p for p in model.parameters() if p.requires_grad]
    with evaluating(model), torch.enable_grad():
        e = read(model, batch)
        if not e.requires_grad:
            raise InputError(
                "LAF can train nothing: every parameter that the representation depends on is frozen."
            )
        gradients = torch.autograd.grad(e.sum(), own, allow_unused=True)
    return [p for p, gradient in zip(own, gradients, strict=True) if gradient is None]


def _head_adam(head: list[Parameter], lr: float) -> Adam:
    if not head:
        raise InputError(
            "LAF.repair trains the head, but every parameter above the representation is frozen."
        )
    return Adam(head, lr)


class _InTurn(Optimizer):
    """Several Adams over the same parameters, each with its own state; a step is one of each, `turn` says whose."""

    def __init__(self, params: list[Parameter], *, lrs: list[float]) -> None:
        super().__init__(params, {})
        self.each, self.turn = [Adam(params, lr) for lr in lrs], 0

    def step(self, closure: Any = None) -> Any:
        """One step of each on what the closure computes in its turn; returns the last loss."""
        for turn, one in enumerate(self.each):
            self.turn = turn
            loss = one.step(closure)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"each": [one.state_dict() for one in self.each]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for one, state in zip(self.each, state_dict["each"], strict=True):
            one.load_state_dict(state)
