"""A causal language model asked with many prompts: probabilities of labels, beams scored anew, sampled answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence

from ...errors import InputError
from ...random import draw_seed, global_seed
from .prompts import Prompts

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Asked:
    """What prompts were answered with.

    Attributes:
        votes: for each label, float64 [prompts, K]: its probability, a sum of probabilities, or a share of answers.
        invalid: share that fell on no label, float64 [prompts].
    """

    votes: Tensor
    invalid: Tensor


def by_probabilities(model: Module, prompts_ids: Ids, prompts: Prompts, most: int) -> Asked:
    """Probability of each label, over all the ways in which it is written.

    Args:
        model: in eval mode.
        prompts_ids: token ids of each prompt.
        prompts: knows the labels.
        most: sequences a forward pass.
    """
    ways = [(y, way) for y, variants in enumerate(prompts.variants()) for way in variants]
    stems = sorted({way[:-1] for _, way in ways}, key=lambda stem: (len(stem), stem))
    votes = torch.zeros(len(prompts_ids), prompts.classes, dtype=torch.float64)
    for stem in stems:  # () alone where every label is one token: a single pass
        tails = [(y, way[-1]) for y, way in ways if way[:-1] == stem]
        longer = [[*ids, *stem] for ids in prompts_ids]
        found = log_probabilities(model, longer, [len(stem) + 1] * len(longer), [t for _, t in tails], most)
        for (y, _), column in zip(tails, found.T, strict=True):
            votes[:, y] += column.exp()
    return Asked(votes, (1 - votes.sum(1)).clamp(0, 1))


def log_probabilities(
    model: Module, sequences: Ids, read: Sequence[int], tails: Sequence[int], most: int
) -> Tensor:
    """Log-probability of the last tokens of each sequence together, each of `tails` following; float64 [n, tails].

    Args:
        model: in eval mode.
        sequences: token ids.
        read: of each sequence, how many of the last predictions count: the one after its end, and those of its last
            `read` - 1 tokens.
        tails: tokens that may follow.
        most: sequences a forward pass.
    """
    found = []
    for at in range(0, len(sequences), most):
        rows = sequences[at : at + most]
        logits, lengths = _logits(model, rows)
        here = []
        for row, said, n, count in zip(logits, rows, lengths, read[at : at + most], strict=True):
            known = row[n - count : n].double().log_softmax(-1)
            told = torch.tensor(said[n - count + 1 :], dtype=torch.long, device=known.device)
            before = known[: count - 1].gather(1, told[:, None]).sum()
            here.append((before + known[-1, torch.tensor(tails, device=known.device)]).cpu())
        found.append(torch.stack(here))
    return torch.cat(found)


def by_beams(
    model: Module, prompts_ids: Ids, prompts: Prompts, *, beams: int, tokens: int, once: bool, most: int
) -> Asked:
    """For each label, the probabilities of the label's tokens in the beams that name it, summed.

    Args:
        model: of transformers, in eval mode.
        prompts_ids: token ids of each prompt.
        prompts: knows the labels.
        beams: how many are searched and returned.
        tokens: longest answer.
        once: whether beams that are alike up to their label count once.
        most: sequences a forward pass.
    """
    votes = torch.zeros(len(prompts_ids), prompts.classes, dtype=torch.float64)
    invalid = torch.zeros(len(prompts_ids), dtype=torch.float64)
    for at, ids in enumerate(prompts_ids):
        answers = generated(model, ids, tokens, num_beams=beams, num_return_sequences=beams, do_sample=False)
        kept: dict[Any, tuple[int, int, list[int]]] = {}
        for k, answer in enumerate(answers):
            named = prompts.read(answer)
            if named is None:
                invalid[at] += 1 / beams
                continue
            y, end = named
            kept[tuple(answer[:end]) if once else k] = (
                y,
                _width(answer, end, prompts, y),
                [*ids, *answer[:end]],
            )
        for y, width, sequence in kept.values():
            score = log_probabilities(model, [sequence[:-1]], [width], [sequence[-1]], most)
            votes[at, y] += float(score.exp())
    return Asked(votes, invalid)


def by_samples(
    model: Module,
    prompts_ids: Ids,
    prompts: Prompts,
    *,
    answers: int,
    tokens: int,
    temperature: float,
    rng: Generator,
) -> Asked:
    """Share of sampled answers that name each label.

    Args:
        model: of transformers, in eval mode.
        prompts_ids: token ids of each prompt.
        prompts: knows the labels.
        answers: to each prompt.
        tokens: longest answer.
        temperature: of the distribution they are drawn from.
        rng: draws them.
    """
    votes = torch.zeros(len(prompts_ids), prompts.classes, dtype=torch.float64)
    with global_seed(draw_seed(rng)):
        for at, ids in enumerate(prompts_ids):
            drawn = generated(
                model, ids, tokens, do_sample=True, num_return_sequences=answers, temperature=temperature, top_k=0
            )  # fmt: skip
            for answer in drawn:
                named = prompts.read(answer)
                if named is not None:
                    votes[at, named[0]] += 1 / answers
    return Asked(votes, (1 - votes.sum(1)).clamp(0, 1))


def generated(model: Module, ids: Sequence[int], tokens: int, **how: Any) -> list[list[int]]:
    """Answers to one prompt, without it.

    Raises:
        InputError: if the model cannot generate.
    """
    if not callable(getattr(model, "generate", None)):
        raise InputError(
            f"a {type(model).__name__} has no generate, so it cannot be asked for answers. Use scoring='direct'."
        )
    asked = torch.tensor([list(ids)], device=next(model.parameters()).device)
    filler: Any = getattr(model, "generation_config", None)
    end = getattr(filler, "pad_token_id", None)
    end = getattr(filler, "eos_token_id", None) if end is None else end
    end = end[0] if isinstance(end, list) else end
    answered = model.generate(  # type: ignore[operator]
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=tokens, pad_token_id=end or 0, **how
    )  # fmt: skip
    rows: list[list[int]] = answered[:, asked.shape[1] :].tolist()
    return rows


def _width(answer: Sequence[int], end: int, prompts: Prompts, y: int) -> int:
    """How many tokens the label at the end of `answer[:end]` has."""
    fitting = [len(way) for way in prompts.variants()[y] if tuple(answer[end - len(way) : end]) == way]
    return max(fitting, default=1)


def _logits(model: Module, rows: Ids) -> tuple[Tensor, list[int]]:
    """Logits [n, t, vocabulary] of sequences filled up at their ends, which nothing before sees, and their lengths."""
    device = next(model.parameters()).device
    lengths = [len(row) for row in rows]
    ids = pad_sequence([torch.tensor(list(row), device=device) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]
    out = model(input_ids=ids, attention_mask=mask.long())
    return out.logits, lengths
