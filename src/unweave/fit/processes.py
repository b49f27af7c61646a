"""One training over several processes, started by `accelerate launch` or `torchrun`; a no-op in one process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from ..errors import InputError, require


@dataclass
class Processes:
    """The processes that share a training.

    Attributes:
        model: call this one; it is wrapped when there are several processes.
        rank: of this process, from 0.
        count: of processes.
    """

    model: Module
    rank: int = 0
    count: int = 1
    _accelerator: Any = None

    @classmethod
    def start(cls, model: Module, optimizer: Optimizer) -> Processes:
        """Join the processes that the environment names (WORLD_SIZE), or stand alone."""
        named = int(os.environ.get("WORLD_SIZE", "1"))
        if named == 1 or not any(p.requires_grad for p in model.parameters()):
            return cls(model)
        accelerate = require("accelerate", extra="distributed", purpose="training over several processes")
        # without `cpu` accelerate stands alone under torchrun on a machine that has no device
        accelerator = accelerate.Accelerator(cpu=not torch.cuda.is_available())
        if accelerator.num_processes != named:
            raise InputError(
                f"WORLD_SIZE names {named} processes and accelerate joined {accelerator.num_processes}. Start them "
                "with torchrun or accelerate launch, before anything else uses accelerate."
            )
        wrapped = accelerator.prepare_model(model)
        return cls(wrapped, accelerator.process_index, accelerator.num_processes, accelerator)

    def share(self, batch: int) -> float:
        """What this process's slice of a global batch weighs, so that mean losses add up to the global mean."""
        mine = batch // self.count + (self.rank < batch % self.count)
        return mine * self.count / batch

    def backward(self, loss: Tensor, share: float) -> None:
        """Run backward; gradients are averaged over the processes by the global batch."""
        if self._accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._accelerator.backward(loss * share)

    def mean(self, value: float, share: float) -> float:
        """Mean of a figure over the global batch."""
        if self._accelerator is None:
            return value
        mine = torch.tensor(value * share, dtype=torch.float64, device=self._accelerator.device)
        return float(self._accelerator.reduce(mine, reduction="mean"))
