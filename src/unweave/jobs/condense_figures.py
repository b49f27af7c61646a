"""What a smaller mixture of experts costs and saves: quality, size, speed, and layer by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import InputError
from ..experts.cd_moe.states import distance
from ..io.texts import read_sequences
from ..models.moe import Condensed, MoE, Tied, Trimmed, moe_layers, present_rows
from ..tasks import evaluating, perplexity, predict
from ..types import Data

_BATCHES = (1, 8, 32)
_TIMES = 5
Figures = dict[str, tuple[float, float, str]]
"""Name -> (before, after, unit)."""
Spread = dict[str, tuple[float, float]]
"""Name of a figure -> half of its range over repeats (before, after)."""


@dataclass(frozen=True)
class Questions:
    """Questions with options to choose from.

    Attributes:
        data: every prompt with every option.
        of: the question that each belongs to [n].
        right: whether it is the right one, bool [n].
    """

    data: Data[Any]
    of: Tensor
    right: Tensor

    def accuracy(self, model: Module) -> float:
        """Share of the questions whose right option has the highest summed log-probability."""

        def score(m: Module, batch: Any) -> Tensor:
            told: Tensor = self.data.task.log_probabilities(m, batch)[0]
            return told

        scores = predict(model, self.data, score)
        count = int(self.of.max()) + 1
        best = torch.stack([torch.where(self.of == q, scores, -torch.inf).argmax() for q in range(count)])
        return float(self.right[best].double().mean())


def read_questions(file: Path, tokenizer: Any, length: int) -> Questions:
    """Read a .jsonl of {"prompt": ..., "options": [...], "answer": an option or its number from 0}.

    Raises:
        InputError: naming the line that is none, or if there is no question.
    """
    if not Path(file).is_file():
        raise InputError(f"there is no file {file}.")
    rows, of, right = [], list[int](), list[bool]()
    lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    for q, line in enumerate(lines):
        prompt, options, answer = _question(file, q + 1, line)
        for i, option in enumerate(options):
            rows.append(json.dumps({"prompt": prompt, "answer": option}) + "\n")
            of.append(q)
            right.append(i == answer)
    if not rows:
        raise InputError(f"{file} holds no question. Give one a line, or leave it out (options; --options).")
    with TemporaryDirectory() as folder:
        each = Path(folder) / "options.jsonl"
        each.write_text("".join(rows), encoding="utf-8")
        data = read_sequences(each, tokenizer, length, prompted=True).data
    if len(data) != len(rows):
        raise InputError(
            f"{file}: {len(rows) - len(data)} of {len(rows)} options leave nothing to predict, or are longer than "
            f"{length} tokens with their prompt. Give others, or a larger length."
        )
    return Questions(data, torch.tensor(of), torch.tensor(right))


def _question(file: Path, number: int, line: str) -> tuple[str, Sequence[str], int]:
    try:
        told = json.loads(line)
        prompt, options, answer = told["prompt"], told["options"], told["answer"]
        at = options.index(answer) if isinstance(answer, str) else int(answer)
        fits = isinstance(prompt, str) and len(options) > 1 and 0 <= at < len(options)
        fits = fits and all(isinstance(option, str) for option in options)
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise InputError(
            f'{file}, line {number}, must be {{"prompt": text, "options": two texts or more, "answer": one of them or '
            f"its number from 0}}; got {line[:80]}."
        )
    return prompt, options, at


def compared(
    before: Module, after: Module, heldout: Data[Any], asked: Questions | None
) -> tuple[Figures, Spread]:
    """Every figure of both models, and the spread of those that were repeated."""
    figures: Figures = {"held-out perplexity": (perplexity(before, heldout), perplexity(after, heldout), "")}
    if asked is not None:
        figures["questions answered right"] = (100 * asked.accuracy(before), 100 * asked.accuracy(after), "%")
    figures |= {
        "parameters": (_size(before), _size(after), ""),
        "parameters a token uses": (_active(before), _active(after), ""),
        "weights": (_bytes(before), _bytes(after), "MiB"),
    }
    spread: Spread = {}
    for size in _BATCHES:
        (was, around), (now, new) = (_speed(m, heldout, size) for m in (before, after))
        name = f"tokens a second, batch {size}"
        figures[name], spread[name] = (was, now, ""), (around, new)
    return figures, spread


def baseline(before: Module, after: Module, heldout: Data[Any], asked: Questions | None) -> dict[str, float]:
    """The figures of a baseline, by name; sizes as shares of the original's."""
    found = {"perplexity": perplexity(after, heldout)}
    if asked is not None:
        found["questions right, %"] = 100 * asked.accuracy(after)
    found["share of parameters"] = _size(after) / _size(before)
    found["share a token uses"] = _active(after) / _active(before)
    found["tokens a second, batch 1"] = _speed(after, heldout, 1)[0]
    return found


def layer_distances(before: Module, after: Module, data: Data[Any]) -> dict[str, float]:
    """Block -> Jensen-Shannon divergence of its decoder layer's output from the original's, mean over tokens, in nats.

    All changes before a layer count: this is what has gathered up to there.
    """
    moes = moe_layers(before)
    totals, tokens = dict.fromkeys((moe.name for moe in moes), 0.0), 0
    with evaluating(before), evaluating(after):
        for batch in data.batches():
            states = [_outputs(model, [moe.layer for moe in moes], data, batch) for model in (before, after)]
            present = present_rows(data.task, batch)
            count = len(states[0][moes[0].layer]) if present is None else int(present.sum())
            share = torch.full((count,), 1 / count, dtype=torch.float64)
            for moe in moes:
                a, b = (s[moe.layer] if present is None else s[moe.layer][present.flatten()] for s in states)
                totals[moe.name] += count * distance(a, b, share)
            tokens += count
    return {name: total / tokens for name, total in totals.items()}


def _outputs(model: Module, layers: Sequence[str], data: Data[Any], batch: Any) -> dict[str, Tensor]:
    held: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        tensor: Tensor = output if isinstance(output, Tensor) else output[0]
        held[name] = tensor.reshape(-1, tensor.shape[-1])

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        for name in layers
    ]
    try:
        data.task.outputs(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return held


def _speed(model: Module, data: Data[Any], size: int) -> tuple[float, float]:
    """Tokens a second of one forward pass of a batch, the median and half of the range of several."""
    longest = max((item["input_ids"] for item in data.examples), key=len)  # type: ignore[attr-defined]
    batch = {"input_ids": longest.repeat(size, 1)}
    rates = []
    with evaluating(model):
        for _ in range(_TIMES):
            began = perf_counter()
            data.task.outputs(model, batch)
            rates.append(batch["input_ids"].numel() / (perf_counter() - began))
    return median(rates[1:]), (max(rates[1:]) - min(rates[1:])) / 2


def _active(model: Module) -> float:
    """Parameters that one token meets: all but the experts that it does not choose."""
    idle = 0.0
    for moe in _blocks(model):
        held = sum(p.numel() for p in moe.experts.parameters())
        idle += held * (1 - min(moe.top_k, moe.count) / moe.count)
    return _size(model) - idle


def _blocks(model: Module) -> list[MoE]:
    try:
        return moe_layers(model)
    except InputError:  # all of them are condensed, or merged
        return []


def became(before: Module, after: Module) -> dict[str, str]:
    """Block -> what became of it, in words."""
    told = {}
    for moe in moe_layers(before):
        trimmed = next(
            (n for n in (moe.name, moe.layer) if isinstance(dict(after.named_modules()).get(n), Trimmed)),
            None,
        )
        new = None if trimmed else after.get_submodule(moe.name)
        if trimmed is not None:
            told[moe.name] = "taken out" if trimmed == moe.name else "taken out, with its decoder layer"
        elif isinstance(new, Condensed):
            told[moe.name] = f"condensed: {'shared expert and ' if moe.shared else ''}experts " + _listed(
                new.kept, new.alpha
            )
        else:
            assert new is not None
            tied = next((m for m in new.modules() if isinstance(m, Tied)), None)
            kept: Any = next((m.kept for m in new.modules() if hasattr(m, "kept")), None)
            if tied is not None:
                told[moe.name] = f"{moe.count} experts merged into {int(tied.places.max()) + 1}"
            elif kept is not None and len(kept) < moe.count:
                told[moe.name] = f"experts kept: {', '.join(map(str, kept))} of {moe.count}"
            else:
                told[moe.name] = "as it was"
    return told


def _listed(kept: Sequence[int], alpha: Sequence[float]) -> str:
    return ", ".join(f"{e} ({a:.3f})" for e, a in zip(kept, alpha, strict=True)) or "none"


def _size(model: Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _bytes(model: Module) -> float:
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
