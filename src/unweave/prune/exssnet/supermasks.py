"""One set of weights and a mask for each task."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from ...errors import InputError
from ...masks.mask import Mask


class Supermasks(Module):
    """One set of weights, and for each task a mask, running statistics and its number of classes.

    Attributes:
        backbone: the shared weights W, whole.
        masks: one a task.
        scores: one set a task, from which a later task may start.
    """

    def __init__(self, backbone: Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.masks: list[Mask] = []
        self.scores: list[dict[str, Tensor]] = []
        self._statistics: list[dict[str, Tensor]] = []
        self._classes: list[int] = []

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for task, mask in enumerate(self.masks):
            at = f"{prefix}tasks.{task}"
            destination[f"{at}.classes"] = torch.tensor(self._classes[task])
            parts = {"mask": mask.keep, "scores": self.scores[task], "statistics": self._statistics[task]}
            for kind, tensors in parts.items():
                for name, tensor in tensors.items():
                    destination[f"{at}.{kind}.{name}"] = tensor

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        at = f"{prefix}tasks."
        stored = {key.removeprefix(at): state_dict.pop(key) for key in list(state_dict) if key.startswith(at)}
        parts: list[dict[str, Any]] = [{} for _ in {key.partition(".")[0] for key in stored}]
        for key, tensor in stored.items():
            task, _, name = key.partition(".")
            kind, _, name = name.partition(".")
            parts[int(task)].setdefault(kind, {})[name] = tensor
        self.masks = [Mask(part["mask"]) for part in parts]
        self.scores = [part["scores"] for part in parts]
        self._statistics = [part.get("statistics", {}) for part in parts]
        self._classes = [int(part["classes"][""]) for part in parts]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def subnetwork(self, task: int, *, classes: int | None = None) -> Module:
        """A copy of the network as this task uses it, with logits of its classes (or as many as told), in eval mode.

        Raises:
            InputError: if no such task was learnt.
        """
        if not 0 <= task < len(self.masks):
            raise InputError(f"Supermasks has learnt {len(self.masks)} tasks, from 0; got task {task}.")
        net = self.masks[task].apply_(deepcopy(self.backbone))
        net.load_state_dict(self._statistics[task], strict=False)
        return nn.Sequential(net, Head(classes or self._classes[task])).eval()

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Logits [n, classes of the task] of inputs [n, ...]."""
        out: Tensor = self.subnetwork(task)(x)
        return out

    def used(self) -> Mask:
        """Weights that some task uses; the rest is free capacity."""
        used = self.masks[0]
        for mask in self.masks[1:]:
            used = used | mask
        return used

    def free_capacity(self) -> float:
        """Share of the weights that no task uses yet."""
        return 1 - self.used().density() if self.masks else 1.0


class Head(Module):
    """The first logits only."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, logits: Tensor) -> Tensor:
        """Cut [n, outputs] to [n, classes]."""
        return logits[:, : self.classes]


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, density: float) -> Tensor:
        return top(scores, density).to(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class TopK(Module):
    """Parametrisation W -> W * mask of the top scores; the gradient passes straight to the scores."""

    def __init__(self, scores: Tensor, density: float) -> None:
        super().__init__()
        self.scores, self.density = nn.Parameter(scores.clone()), density

    def forward(self, weight: Tensor) -> Tensor:
        """Mask a weight."""
        alive: Tensor = _Straight.apply(self.scores.abs(), self.density)  # type: ignore[no-untyped-call]
        return weight * alive


def top(scores: Tensor, density: float) -> Tensor:
    """Mask of the highest round(density * n) of n scores, at least one."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(max(1, round(density * scores.numel()))).indices] = True
    return mask.view_as(scores)
