"""AltPO: prefer what the model itself would say instead, drawn before it is taught.

The loss is DPO's, with an alternative answer to each prompt that the original model makes. Mekala et al.,
"Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language Models", COLING 2025,
arXiv 2409.13474.

The paper asks an instruction-tuned model for another answer in words. Here, where no tokenizer is at hand, it
is drawn from the model, as many tokens as the answer has, again where it came out as the answer itself. Texts
that carry an alternative already, made in the paper's way, keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import ClassVar

import torch
from torch import Generator
from torch.nn import Module

from ..errors import InputError
from ..models.decoding import Choose, continued, drawn
from ..paper import Paper
from ..random import child
from ..settings import Count, NonNegative, Positive, settings
from ..tasks.language import IGNORED, CausalLM, Text, texts
from ..types import Batch, Data, Request
from ._tune import RetainLoss, check_texts, refuse_idle_loss
from .dpo import DPO


@settings
class AltPO:
    """Prefer an answer that the model made up to the one to forget.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        beta: how sharply answers are told apart, a nat of log-ratio.
        alpha: weight of what keeps the rest; 0 reads no retain set.
        retain_loss: what keeps the rest: "nll", the training loss on the retain set, or "kl", closeness to the original
            there.
        temperature: of the answers that are drawn.
        tries: how often an answer that came out as the one to forget is drawn, before it is refused.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    beta: Positive = 0.1
    alpha: NonNegative = 1.0
    retain_loss: RetainLoss = "nll"
    temperature: Positive = 1.0
    tries: Count = 20

    paper: ClassVar[Paper] = Paper(
        "Alternate Preference Optimization for Unlearning Factual Knowledge in Large Language Models",
        "Mekala, Dorna, Dubey, Lalwani, Koleczek, Rungta, Hasan, Lobo",
        "COLING",
        2025,
        "2409.13474",
    )

    def __post_init__(self) -> None:
        refuse_idle_loss(self)

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that prefers its own other answers.

        Args:
            model: left unchanged.
            data: forget and, with alpha above 0, retain set are trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty, or the retain set with alpha above 0.
            InputError: if the data hold no texts, or every parameter is frozen.
                Also if no other answer to a prompt is found, or a text to forget is all answer.
            NonFiniteError: if training diverges; lower lr.
        """
        check_texts("AltPO", rng, data.forget, *([data.retain] if self.alpha else []))
        if not all(isinstance(b, Mapping) and "alternative" in b for b in data.forget.batches()):
            data = replace(data, forget=self.answered(model, data.forget, child(rng)))
        shared = {f.name: getattr(self, f.name) for f in fields(DPO)}
        return DPO(**shared).apply(model, data, rng=rng)

    def answered(self, model: Module, forget: Data[CausalLM], rng: Generator) -> Data[CausalLM]:
        """The texts, each with another answer, drawn from `model`."""
        given, made = list[Text](), list[Text]()
        for batch in forget.batches():
            whole = texts_in(forget.task, batch)
            given += whole
            made += self._others(model, whole, drawn(rng, self.temperature))
        return texts(given, alternatives=made, batch_size=forget.batch_size)

    def _others(self, model: Module, known: Sequence[Text], choose: Choose) -> list[Text]:
        found: dict[int, Text] = {}
        for _ in range(self.tries):
            left = [i for i in range(len(known)) if i not in found]
            if not left:
                break
            prompts = [torch.as_tensor(known[i].ids)[: known[i].prompt] for i in left]
            lengths = [len(known[i].ids) - known[i].prompt for i in left]
            for i, prompt, answer in zip(
                left, prompts, continued(model, prompts, lengths, choose), strict=True
            ):
                other = [*prompt.tolist(), *answer.tolist()]
                if other != list(known[i].ids):
                    found[i] = Text(other, known[i].prompt)
        if len(found) < len(known):
            raise InputError(
                f"AltPO drew no other answer to {len(known) - len(found)} prompts in {self.tries} tries: the "
                "model is too sure of them. Raise temperature, or give alternatives of your own."
            )
        return [found[i] for i in range(len(known))]


def texts_in(task: CausalLM, batch: Batch) -> list[Text]:
    """The texts of a batch, without padding; tokens before the first counted one are the prompt."""
    found = []
    for ids, labels, there in zip(task.ids(batch), task.labels(batch), task.present(batch), strict=True):
        counted = (labels[there] != IGNORED).nonzero()
        prompt = int(counted[0]) if len(counted) else 0
        if prompt == 0:
            raise InputError(
                "AltPO answers prompts; a text to forget is all answer, with no token masked before it."
            )
        found.append(Text(ids[there].tolist(), prompt))
    return found
