"""Who's Harry Potter: learn the words that a model would use that had not read the texts so often.

    v = v_0 - a * ReLU(v_r - v_0),     L = mean over tokens of CE(argmax v, softmax(z))

with v_0 the logits of the original and v_r those of a model that was trained further on the texts to forget
("reinforced"). Eldan, Russinovich, "Who's Harry Potter? Approximate Unlearning in LLMs", arXiv 2310.02238. The
labels argmax v are made once, before the first step, and kept.

Departure: the paper also writes generic terms for names before v_r's side is read, by a dictionary made by
hand; ours works on ids alone and has none. Give such texts as alternatives and `IDK` instead.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn import Module

from ..paper import Paper
from ..settings import Count, Positive, settings
from ..tasks import evaluating
from ..tasks.language import CausalLM
from ..types import Batch, Request
from ._tune import Term, check_texts, fine_tuned, logits_of, tokens_of, tuned


@settings
class WHP:
    """Replace what the texts teach by generic words.

    Attributes:
        epochs: passes over the forget set.
        lr: peak learning rate of AdamW; with `lora` 1e-4 to 2e-4 is usual, 1e-5 hardly moves anything.
        accumulate: batches a step; the same as one batch of as many texts, in less memory.
        lora: rank of adapters that learn in place of the weights, merged in the end; None trains the weights.
        strength: a, by how much what reinforcement raised is lowered.
        reinforce_epochs: passes over the forget set that make the reinforced model.
        reinforce_lr: learning rate of these.
    """

    epochs: Count = 10
    lr: Positive = 1e-5
    accumulate: Count = 1
    lora: Count | None = None
    strength: Positive = 5.0
    reinforce_epochs: Count = 3
    reinforce_lr: Positive = 1e-5

    paper: ClassVar[Paper] = Paper(
        "Who's Harry Potter? Approximate Unlearning in LLMs",
        "Eldan, Russinovich",
        "arXiv",
        2023,
        "2310.02238",
    )

    def apply(self, model: Module, data: Request[CausalLM], *, rng: Generator) -> Module:
        """Return a copy of `model` that learnt generic words in the texts' place.

        Args:
            model: left unchanged.
            data: the forget set alone is trained on.
            rng: governs orders and pairing.

        Raises:
            EmptyDataError: if the forget set is empty.
            InputError: if the data hold no texts, or every parameter is frozen.
            NonFiniteError: if training diverges; lower lr.
        """
        check_texts("WHP", rng, data.forget)
        task = data.forget.task
        reinforced = fine_tuned(
            "WHP",
            model,
            data.forget,
            epochs=self.reinforce_epochs,
            lr=self.reinforce_lr,
            lora=self.lora,
            rng=rng,
        )
        labels = list[Tensor]()
        with evaluating(model), evaluating(reinforced):
            for batch in data.forget.batches():
                counted = task.counted(batch)
                base, raised = (logits_of(task, m, batch, counted)[0] for m in (model, reinforced))
                words = generic(base, raised, self.strength).cpu()
                labels += torch.split(words, counted.sum(1).tolist())
        del reinforced

        def total(m: Module, batch: Batch, at: Tensor) -> Tensor:
            logits, _ = logits_of(task, m, batch, task.counted(batch))
            wanted = [words for i in at.tolist() for words in labels[i].tolist()]
            return F.cross_entropy(logits, at.new_tensor(wanted).to(logits.device), reduction="sum")

        return tuned("WHP", self, model, data, Term(total, tokens_of(task)), rng=rng)


def generic(base: Tensor, raised: Tensor, strength: float) -> Tensor:
    """The likeliest token [n] once what reinforcement raised is lowered, of logits [n, v].

    Example:
        >>> import torch
        >>> generic(torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0, 1.0]]), 5.0)
        tensor([1])
    """
    return (base - strength * (raised - base).relu()).argmax(1)
