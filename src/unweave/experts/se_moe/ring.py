"""A ring of slots for the experts of a model's layers: few are held where the model runs, the next are on their way.

SE-MoE's ring memory offload, as in the method card se-moe, item 8: L layers' experts lie on the host; K slots hold the
first K. When layer i has run, its slot takes layer (i + K) mod L. A map from layer to slot says where each is, since
layer mod K is right only where K divides L.

Answers and gradients are to the bit those of the resident model: the same kernels read the same numbers. What autograd
keeps of a slot is kept by name, and read from the host again in the backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import InputError
from ...models.moe import MoE


class Ring:
    """The slots, the worker that fills them, and what happened.

    Args:
        moes: the layers, in the order in which they run.
        slots: K.
        device: where slots lie; that of the experts unless given.
        prefetch: fill a slot as soon as it is free; else only when its layer is met.
        wrap: after the last layer go on with the first ones, for the next pass.
        delay: seconds that every copy is made to last, to show overlap where there is none to gain.

    Attributes:
        events: ("copy" | "ready" | "wait" | "use" | "free", layer), in the order in which they happened.
        copies: made so far, the first K included.
        waits: times that a layer was not there yet.
    """

    def __init__(
        self,
        moes: Sequence[MoE],
        slots: int,
        *,
        device: torch.device | None,
        prefetch: bool,
        wrap: bool,
        delay: float,
    ) -> None:
        self.moes, self.prefetch, self.wrap, self.delay = list(moes), prefetch, wrap, delay
        self.params = [dict(moe.experts.named_parameters(recurse=False)) for moe in self.moes]
        shapes = [{n: (p.shape, p.dtype) for n, p in part.items()} for part in self.params]
        odd = next((i for i, s in enumerate(shapes) if s != shapes[0]), None)
        if odd is not None:
            raise InputError(
                f"SEMoE needs layers of one shape, which take turns in a slot; {self.moes[odd].name} differs from "
                f"{self.moes[0].name}."
            )
        own = next(iter(self.params[0].values())).device
        self.device = own if device is None else device
        pin = self.device.type == "cuda"
        self.homes = [
            {
                n: p.detach().to("cpu", copy=True).pin_memory() if pin else p.detach().clone()
                for n, p in part.items()
            }
            for part in self.params
        ]
        self.slots = [
            {n: torch.empty_like(t, device=self.device) for n, t in self.homes[0].items()}
            for _ in range(slots)
        ]
        self.at: dict[int, int] = {}  # layer -> slot
        self.coming: dict[int, Future[None]] = {}
        self.events: list[tuple[str, int]] = []
        self.copies = self.waits = 0
        self._stream: Any = torch.cuda.Stream(self.device) if pin else None  # type: ignore[no-untyped-call]
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="unweave-ring")
        for layer in range(len(self.moes)):
            self._away(layer)
        for layer in range(slots if prefetch else 0):
            self._send(layer, layer)

    def before(self, layer: int) -> None:
        """Have a layer's experts in place: wait for them, or fetch them now."""
        if layer not in self.coming:
            slot = next((s for s in range(len(self.slots)) if s not in self.at.values()), None)
            if slot is None:  # the layers run in another order than the ring's: the farthest one makes place
                slot = self._drop(max(self.at, key=lambda other: (other - layer) % len(self.moes)))
            self._send(layer, slot)
        if not self.coming[layer].done():
            self.waits += 1
            self.events.append(("wait", layer))
        self.coming[layer].result()
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        for name, parameter in self.params[layer].items():
            parameter.data = self.slots[self.at[layer]][name]
        self.events.append(("use", layer))

    def after(self, layer: int) -> None:
        """Free a layer's slot, and send for the one that takes it."""
        slot, count = self._drop(layer), len(self.moes)
        self.events.append(("free", layer))
        upcoming = layer + len(self.slots)
        if self.prefetch and (upcoming < count or self.wrap):
            self._send(upcoming % count, slot)

    def resident_bytes(self) -> int:
        """Bytes of experts that slots hold."""
        return sum(t.numel() * t.element_size() for slot in self.slots for t in slot.values())

    def source(self, kept: Tensor) -> tuple[int, str] | None:
        """The layer and the parameter whose slot a tensor's storage is, if it is one's."""
        where = kept.untyped_storage().data_ptr()
        for layer, slot in self.at.items():
            for name, held in self.slots[slot].items():
                if held.untyped_storage().data_ptr() == where:
                    return layer, name
        return None

    def close(self) -> None:
        """Put every parameter back as it was and stop the worker."""
        for future in self.coming.values():
            future.result()
        self._worker.shutdown()
        for part, home in zip(self.params, self.homes, strict=True):
            for name, parameter in part.items():
                parameter.data = home[name].to(self.device)

    def _send(self, layer: int, slot: int) -> None:
        if self._stream is not None:  # what ran in the slot must be over before it is overwritten
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self.at[layer] = slot
        self.events.append(("copy", layer))
        self.copies += 1
        self.coming[layer] = self._worker.submit(self._copy, layer, slot)

    def _copy(self, layer: int, slot: int) -> None:
        if self.delay:
            time.sleep(self.delay)
        with torch.no_grad(), torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            for name, tensor in self.homes[layer].items():
                self.slots[slot][name].copy_(tensor, non_blocking=True)
        self.events.append(("ready", layer))

    def _drop(self, layer: int) -> int:
        self.coming.pop(layer).result()
        self._away(layer)
        return self.at.pop(layer)

    def _away(self, layer: int) -> None:
        """One number that is none in place of each parameter, of its shape, so that a use of it shows."""
        for parameter in self.params[layer].values():
            parameter.data = torch.full((1,), torch.nan, dtype=parameter.dtype, device=self.device).expand(
                parameter.shape
            )


class Offloaded(Module):
    """A model whose experts take turns in a ring of slots; it is called as the model is.

    `model` inside has no experts between calls: `release` puts them back, `state_dict` tells their values.

    Args:
        model: its experts are moved to the host; nobody else should use it meanwhile.
        ring: over its layers.
    """

    def __init__(self, model: Module, ring: Ring) -> None:
        super().__init__()
        self.model, self.ring = model, ring
        self._hooks: list[Any] = []
        for i, moe in enumerate(ring.moes):
            self._hooks += [
                moe.experts.register_forward_pre_hook(lambda *_, i=i: ring.before(i)),
                moe.experts.register_forward_hook(lambda *_, i=i: ring.after(i)),
            ]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        with self._by_name():
            return self.model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        made: Any = self.model
        with torch.no_grad():
            return made.generate(*args, **kwargs)

    def release(self) -> Module:
        """The plain model again, with its experts in it."""
        for hook in self._hooks:
            hook.remove()
        self.ring.close()
        return self.model

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The plain model's, with the experts' values from the host."""
        told = self.model.state_dict(*args, **kwargs)
        for moe, home in zip(self.ring.moes, self.ring.homes, strict=True):
            inside = {id(m): n for n, m in self.model.named_modules()}[id(moe.experts)]
            told |= {f"{kwargs.get('prefix', '')}{inside}.{name}": tensor for name, tensor in home.items()}
        return told

    def _by_name(self) -> Any:
        """Autograd keeps slots by name, since others will be in them by the time of the backward pass."""
        ring = self.ring

        def pack(kept: Tensor) -> Any:
            found = ring.source(kept)
            return kept if found is None else (found, kept.shape, kept.stride(), kept.storage_offset())

        def unpack(kept: Any) -> Tensor:
            if isinstance(kept, Tensor):
                return kept
            (layer, name), shape, stride, offset = kept
            whole = ring.homes[layer][name].to(ring.device)
            part: Tensor = whole.as_strided(shape, stride, offset)
            return part

        return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
