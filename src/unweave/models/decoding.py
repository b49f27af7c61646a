"""Texts continued token by token, by any causal language model: greedily, or drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import Module

from ..errors import InputError
from ..tasks import evaluating
from ..tasks.language import CausalLM, filled

Choose = Callable[[Tensor], Tensor]
"""Logits of the next token [n, vocabulary] -> its id [n]."""


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token."""
    return logits.argmax(1)


def drawn(rng: Generator, temperature: float = 1.0) -> Choose:
    """Tokens drawn by their probabilities, sharpened by a temperature below 1."""

    def choose(logits: Tensor) -> Tensor:
        chances = (logits.double().cpu() / temperature).softmax(1)
        return torch.multinomial(chances, 1, generator=rng)[:, 0]

    return choose


def continued(
    model: Module, prompts: Sequence[Tensor], lengths: Sequence[int], choose: Choose = greedy
) -> list[Tensor]:
    """Continue each prompt by as many tokens as are asked for.

    Texts stand at the left of each batch, padding at the right, so that a model sees the positions that it was trained
    on. The whole text is read again for each token: no cache of any kind of model is needed.

    Args:
        model: left unchanged; read in eval mode.
        prompts: token ids [t], one batch of them.
        lengths: tokens to add to each.
        choose: the next token.

    Returns:
        The tokens added, ids [length] each.

    Raises:
        InputError: if a prompt is empty.
    """
    if any(len(p) == 0 for p in prompts):
        raise InputError("a prompt without a token cannot be continued. Begin it with a start token.")
    task, whole = CausalLM(), [torch.as_tensor(p).long() for p in prompts]
    with evaluating(model):
        for step in range(max(lengths, default=0)):
            open_ = [i for i, n in enumerate(lengths) if step < n]
            batch = filled([{"input_ids": whole[i], "labels": whole[i]} for i in open_])
            ends = torch.tensor([len(whole[i]) - 1 for i in open_])
            logits = task.outputs(model, batch)
            chosen = choose(logits[torch.arange(len(open_)), ends.to(logits.device)]).cpu()
            for i, token in zip(open_, chosen, strict=True):
                whole[i] = torch.cat([whole[i], token[None]])
    return [text[len(p) :] for text, p in zip(whole, prompts, strict=True)]
