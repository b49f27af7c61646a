"""AGD: adapters that give the guided prediction in one pass, at any scale, beside frozen weights.

Perez Jensen, Sadat, "Efficient Distillation of Classifier-Free Guidance using Adapters", TMLR 2025, arXiv 2503.07274.
Trajectories are drawn with guidance at scales w ~ U[low, high]; what the sampler visited, x_t, is stored with the
guided prediction. Beside each cross-attention a stands an adapter A that knows w, the time and the prompt:

    a'(h) = a(h) + A(h; w, t, c),   loss = mean (eps'(x_t, t, c, w) - (eps_u + w (eps_c - eps_u)))^2

A is attention of one head from h to the tokens [phi(w); phi(t); W c] with learned positions, or an offset that is the
same for every token. phi is random Fourier features, a two-layer network and a layer norm. The last layer begins at
zero, so that nothing changes before training. The paper feeds the base's own time embedding; we encode t as w is,
which needs no name of a layer. The null prompt is built in: negative prompts are not covered.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torch.nn import Module
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError, IntegrityError
from ..io.files import folder_written_beside, write_tensors, write_text
from ..models.text_to_image import Text, TextToImage, pick, train_steps_, training_only
from ..paper import Paper
from ..random import draw_seed, global_seed, require_generator
from ..settings import Count, Positive, Range, settings

Kind = Literal["attention", "offset"]
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ANSWERS = "AGD"


@settings
class AGD:
    """Train adapters on the model's own guided trajectories; `adapted` then draws with them in one pass a step.

    Attributes:
        kind: "attention" reads the prompt; "offset" is cheaper and the same for every token.
        width: d of the adapters.
        low: smallest scale trained.
        high: largest.
        trajectories: drawn with guidance, over the prompts in their turn; each gives `sampler_steps` pairs, which take
            twice the latents' memory.
        sampler_steps: of the sampler that draws them.
        steps: of AdamW; the rate rises over the first tenth and falls by a cosine, from and to a ten-thousandth.
        batch_size: pairs a step.
        lr: peak learning rate.
    """

    kind: Kind = "attention"
    width: Annotated[int, Range(at_least=2)] = 320
    low: Annotated[float, Range(at_least=1)] = 1.0
    high: Annotated[float, Range(above=1)] = 12.0
    trajectories: Count = 1000
    sampler_steps: Count = 50
    steps: Count = 5000
    batch_size: Count = 64
    lr: Positive = 1e-4

    paper: ClassVar[Paper] = Paper(
        "Efficient Distillation of Classifier-Free Guidance using Adapters", "Perez Jensen, Sadat", "TMLR", 2025,
        "2503.07274",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise InputError(f"AGD.low must be below high; got {self.low:g} and {self.high:g}.")

    def apply(self, model: TextToImage, data: Sequence[str], *, rng: Generator) -> Adapters:
        """The trained adapters; the pipeline itself is not changed.

        Args:
            model: left unchanged.
            data: prompts to draw.
            rng: governs the run.

        Raises:
            InputError: if there is no prompt, or the model answers the same with and without one.
            NonFiniteError: if training diverges.
        """
        require_generator(rng)
        if not data:
            raise InputError("AGD needs at least one prompt.")
        if model.layout in ("joint", "packed"):
            raise InputError(
                f"AGD stands beside cross-attentions, and {type(model.denoiser).__name__} has none: its text and "
                "picture attend to each other."
            )
        with torch.no_grad():
            text = model.encode(list(data))
        x, goal, t, w, rows = self.trajectories_of(model, text, rng)
        with global_seed(draw_seed(rng)):
            adapters = Adapters.beside(model, self.kind, self.width, (self.low, self.high)).to(model.device)
        adapters.train()

        def loss(_: int) -> Tensor:
            at = pick(self.batch_size, len(x))
            with adapted(model.denoiser, adapters, w[at]):
                answer = model(x[at].to(model.device), t[at], text[rows[at]])
            return F.mse_loss(answer.float(), goal[at].to(model.device).float())

        weights = list(adapters.parameters())
        optimizer, rise = AdamW(weights, lr=self.lr, weight_decay=0.0), max(1, self.steps // 10)
        schedule = LambdaLR(optimizer, lambda k: _rate(k, rise, self.steps))
        with training_only(model, []):
            train_steps_(
                adapters, loss, weights, optimizer, steps=self.steps, rng=rng, fresh=True, label=_ANSWERS,
                schedule=schedule,
            )  # fmt: skip
        return adapters.eval()

    @torch.no_grad()
    def trajectories_of(
        self, model: TextToImage, text: Text, rng: Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the guided sampler visits: x [n, c, h, w], guided predictions, times [n], scales [n], prompts' rows [n].

        Raises:
            InputError: if the prompt changes no prediction: the model is not conditional.
        """
        null, times = model.encode([""]), model.sampler(self.sampler_steps).timesteps.tolist()
        held, guides = list[tuple[Tensor, ...]](), False
        for low in range(0, self.trajectories, self.batch_size):
            n = min(self.batch_size, self.trajectories - low)
            rows = (torch.arange(n) + low) % len(text)
            w = self.low + (self.high - self.low) * torch.rand(n, generator=rng)
            x, sampler = model.noise(n, rng), model.sampler(self.sampler_steps)
            for t in times:
                both = Text.cat([null.expand(n), text[rows]])
                without, told = model(torch.cat([x, x]), t, both).chunk(2)
                guided = without + w.view(-1, 1, 1, 1).to(x) * (told - without)
                held.append((x.cpu(), guided.cpu(), torch.full((n,), t), w, rows))
                guides = guides or bool((told != without).any())
                x = sampler.step(guided, t, x).prev_sample
        if not guides:
            raise InputError(
                "AGD: the pipeline predicts the same with and without a prompt; there is no guidance to learn."
            )
        x, goal, t, w, rows = (torch.cat([h[i] for h in held]) for i in range(5))
        return x, goal, t, w, rows


class Adapters(Module):
    """One adapter beside each cross-attention of a denoiser.

    Args:
        widths: name of the cross-attention -> width of what it reads and writes.
        kind: see `AGD`.
        width: see `AGD`.
        tokens: width of the prompts' tokens.
        length: tokens of a prompt.
        scales: smallest and largest that they are trained for.
        timesteps: of the denoiser's schedule.
    """

    def __init__(
        self, widths: dict[str, int], *, kind: Kind, width: int, tokens: int, length: int,
        scales: tuple[float, float], timesteps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.made: dict[str, Any] = {
            "widths": dict(widths), "kind": kind, "width": width, "tokens": tokens, "length": length,
            "scales": list(scales), "timesteps": timesteps,
        }  # fmt: skip
        self.scales, self.timesteps, self.active = tuple(scales), timesteps, False
        one = _Attention if kind == "attention" else _Offset
        self.beside_ = nn.ModuleDict(
            {n.replace(".", "/"): one(w, width, tokens, length) for n, w in widths.items()}
        )

    @classmethod
    def beside(cls, model: TextToImage, kind: Kind, width: int, scales: tuple[float, float]) -> Adapters:
        """New ones for a pipeline, which change nothing yet."""
        queries = {n: layer for n, layer in model.linears("cross").items() if n.endswith(".to_q")}
        widths = {name.removesuffix(".to_q"): layer.in_features for name, layer in queries.items()}
        text = model.encode([""])
        return cls(
            widths, kind=kind, width=width, tokens=text.hidden.shape[-1], length=text.hidden.shape[1], scales=scales,
            timesteps=model.timesteps,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write a folder as peft does: adapter_model.safetensors, adapter_config.json; frequencies are in it too."""
        with folder_written_beside(Path(folder)) as beside:
            write_tensors(beside / _WEIGHTS, {n: v.contiguous() for n, v in self.state_dict().items()})
            write_text(beside / _CONFIG, json.dumps({"peft_type": _ANSWERS, **self.made}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Adapters:
        """Read what `save` wrote, in eval mode.

        Raises:
            InputError: if it is no folder of such adapters.
            IntegrityError: if a file is damaged.
        """
        folder = Path(folder)
        try:
            told = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} holds no {_CONFIG} that can be read: {error}.") from error
        if told.pop("peft_type", None) != _ANSWERS:
            raise InputError(f"{folder} holds adapters of another kind; AGD's say so in {_CONFIG}.")
        try:
            made = cls(told.pop("widths"), scales=tuple(told.pop("scales")), **told)
            made.load_state_dict(load_file(folder / _WEIGHTS))
        except Exception as error:  # safetensors has its own, a wrong shape RuntimeError
            raise IntegrityError(f"{folder / _WEIGHTS} does not hold what {_CONFIG} says: {error}") from error
        return made.eval()


@contextmanager
def adapted(denoiser: Module, adapters: Adapters, scale: float | Tensor) -> Iterator[None]:
    """Let a denoiser predict as if guided at this scale, in one pass: draw with a guidance scale of 1 inside the block.

        with adapted(pipe.unet, adapters, 7.5):
            pipe("a photo of a cat", guidance_scale=1)

    After it the denoiser is as it was, to the bit: the adapters stand beside it, in forward hooks.

    Args:
        denoiser: of the pipeline that they were trained for, or another checkpoint of the same base.
        adapters: trained.
        scale: w, one for all or one an image, [n].

    Raises:
        InputError: if they are active already, a cross-attention that they stand beside is absent, or the batch has
            another number of images than scales.
    """
    w = torch.as_tensor(scale, dtype=torch.float32)
    if adapters.active:
        raise InputError("these adapters are active already: adapted() does not nest.")
    low, high = adapters.scales
    if bool((w < low).any() or (w > high).any()):
        warnings.warn(
            f"the adapters were trained for scales of {low:g} to {high:g}; others extrapolate badly.",
            stacklevel=3,
        )
    known, seen = dict(denoiser.named_modules()), dict[str, Tensor]()
    absent = [n for n in adapters.made["widths"] if n not in known]
    if absent:
        raise InputError(
            f"{type(denoiser).__name__} has no {absent[0]}: the adapters are of another kind of denoiser."
        )

    def look(module: Any, args: Any, kwargs: Any) -> None:
        bound = signature(module.forward).bind(*args, **kwargs).arguments
        x, c = next(iter(bound.values())), bound["encoder_hidden_states"]
        if w.ndim and len(w) != len(x):
            raise InputError(f"adapted got {len(w)} scales for {len(x)} images.")
        t = torch.as_tensor(bound["timestep"], dtype=torch.float32, device=x.device).expand(len(x))
        seen.update(w=w.to(x.device).expand(len(x)), t=t / adapters.timesteps, c=c.float())

    def add(adapter: Module) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, out: Tensor) -> Tensor:
            h = next(iter(signature(module.forward).bind(*args, **kwargs).arguments.values()))
            more: Tensor = adapter(h.float(), seen["w"], seen["t"], seen["c"])
            return out + more.to(out.dtype)

        return hook

    handles = [denoiser.register_forward_pre_hook(look, with_kwargs=True)]
    for name, adapter in adapters.beside_.items():
        handles.append(known[name.replace("/", ".")].register_forward_hook(add(adapter), with_kwargs=True))
    adapters.active = True
    try:
        yield
    finally:
        adapters.active = False
        for handle in handles:
            handle.remove()


class _Scalar(Module):
    """phi: a number [n] -> [n, width]; its frequencies are stored with it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.randn(width))
        self.register_buffer("phase", torch.rand(width))
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width), nn.LayerNorm(width)
        )

    def forward(self, value: Tensor) -> Tensor:
        waves = torch.cos(2 * math.pi * (self.frequency * value[:, None] + self.phase))  # type: ignore[operator]
        return self.inner(waves)  # type: ignore[no-any-return]


class _Attention(Module):
    def __init__(self, size: int, width: int, tokens: int, length: int) -> None:
        super().__init__()
        self.scale, self.time, self.prompt = _Scalar(width), _Scalar(width), nn.Linear(tokens, width)
        self.position = nn.Parameter(0.02 * torch.randn(length + 2, width))
        self.q, self.k, self.v = nn.Linear(size, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, w: Tensor, t: Tensor, c: Tensor) -> Tensor:
        read = torch.cat([self.scale(w)[:, None], self.time(t)[:, None], self.prompt(c)], 1)
        read = read + self.position[: read.shape[1]]
        return self.out(F.scaled_dot_product_attention(self.q(h), self.k(read), self.v(read)))  # type: ignore[no-any-return]


class _Offset(Module):
    def __init__(self, size: int, width: int, tokens: int, length: int) -> None:
        super().__init__()
        self.scale, self.time, self.prompt = _Scalar(width), _Scalar(width), nn.Linear(tokens, width)
        last = nn.Linear(4 * width, size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), last)

    def forward(self, h: Tensor, w: Tensor, t: Tensor, c: Tensor) -> Tensor:
        same: Tensor = self.inner(self.scale(w) + self.time(t) + self.prompt(c.mean(1)))
        return same[:, None].expand_as(h)


def _rate(k: int, rise: int, steps: int) -> float:
    """The learning rate's share at a step: up linearly, then down by a cosine, between 1e-4 and 1."""
    if k < rise:
        return 1e-4 + (1 - 1e-4) * k / rise
    done = min(1.0, (k - rise) / max(1, steps - rise))
    return 1e-4 + (1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * done))
