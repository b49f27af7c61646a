"""Figures beside the verdict: how well texts are known, by whom, and what is left of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ...models.decoding import Choose, continued, drawn, greedy
from ...random import seeded
from ...statistics import Floats, bootstrap
from ...types import Data, Measurement
from ..classifier.membership import auc
from ..measured import measurement
from ..result import Passages
from .read import Read, Told
from .references import References
from .scores import MeanOf, Seen, extraction_strength, forget_quality, rouge_l, truth_ratio

NEAR = "near the retrained models"
FEW = 4
"""Reference models of either kind whose answers are written out."""
SHOWN = 5
ASKED, LONGEST = 100, 64
"""Texts that answers are generated to, and the most tokens of an answer: no cache of states is kept between tokens."""
DRAWS = 5
"""Answers that are drawn to a prompt, beside the likeliest."""


@dataclass(frozen=True)
class Choices:
    """Right and wrong answers to the prompts of the texts to forget, for TOFU's truth ratio.

    Attributes:
        right: the right answer in other words, one a text in their order.
        wrong: wrong answers, the same number a text, those of one text in a row.
    """

    right: Data[Any]
    wrong: Data[Any]

    def ratios(self, model: Module, mean: MeanOf = "geometric") -> Floats:
        """Truth ratio of each text, [n]; see `truth_ratio`."""
        right, wrong = Told.of(model, self.right).losses, Told.of(model, self.wrong).losses
        each = wrong.reshape(len(right), -1)
        return np.array([truth_ratio(w.tolist(), float(r), mean) for w, r in zip(each, right, strict=True)])


@dataclass(frozen=True)
class Compared:
    """The edited model among those that it is compared with."""

    references: References
    edited: Module
    read: Read

    def figure(
        self,
        name: str,
        of: Callable[[Read], float],
        *,
        unit: str,
        n: int,
        direction: str = NEAR,
        note: str = "",
    ) -> Measurement:
        """A figure that is read off every model's answers."""
        r = self.references
        return measurement(
            name, of(self.read), of(r.holders_read[0]), [of(o) for o in r.oracles_read], unit=unit, direction=direction,
            n=n, note=note,
        )  # fmt: skip


def knowledge(c: Compared) -> list[Measurement]:
    """How probable and how extractable the texts are, and what is left of the others."""
    n, parts = len(c.read.forget), ("forget", "retain", "heldout")
    sizes = {p: len(getattr(c.read, p) or ()) for p in (*parts, "general")}
    found = [
        c.figure(
            f"probability, {_named(part)} texts",
            partial(_probability, part),
            unit="",
            n=sizes[part],
            note="mean of p(answer)^(1 / tokens)",
        )  # fmt: skip
        for part in parts
    ]
    found += [
        c.figure("extraction strength", lambda r: _mean(r.forget, _extracted), unit="share", n=n),
        c.figure(
            "exact memorisation",
            lambda r: _mean(r.forget, lambda s: float(np.mean(s.right[:-1] or s.right))),
            unit="share",
            n=n,
            note="tokens that are the likeliest, the end token left out",
        ),
    ]
    found += [
        c.figure(
            f"perplexity, {_named(part)} texts",
            partial(_perplexity, part),
            unit="",
            direction="near the retrained models; lower is better",
            n=sizes[part],
        )  # fmt: skip
        for part in ("retain", "heldout", *(["general"] if c.read.general is not None else []))
    ]
    return found


def memberships(c: Compared, text: Callable[[Sequence[int]], bytes]) -> list[Measurement]:
    """Membership of the forgotten texts against held-out ones, by each score: AUC, 0.5 where nothing tells them apart.

    Args:
        c: the model among the others.
        text: token ids -> the text's bytes, which zlib compresses.
    """
    r, n = c.references, len(c.read.forget)
    said = {part: [text(ids) for ids in _answers(getattr(r.request, part))] for part in ("forget", "heldout")}
    usual = {
        part: np.mean([getattr(h, part).losses for h in r.oracles_read], 0) if r.oracles_read else None
        for part in said
    }

    def scores(read: Read, part: str) -> dict[str, Floats]:
        told: Told = getattr(read, part)
        found = {
            "loss": -told.losses,
            "zlib": -np.array([s.zlib(b) for s, b in zip(told.seen, said[part], strict=True)]),
            "Min-K 40 %": np.array([s.min_k(0.4) for s in told.seen]),
            "Min-K++ 40 %": np.array([s.min_k(0.4, standardised=True) for s in told.seen]),
        }
        reference = usual[part]
        if reference is not None:
            found["reference"] = reference - told.losses
        return found

    def apart(name: str, read: Read) -> float:
        return auc(scores(read, "forget")[name], scores(read, "heldout")[name])

    found = [
        c.figure(
            f"membership by {name}",
            partial(apart, name),
            unit="AUC",
            n=n,
            note="the reference is the mean loss of the retrained models" if name == "reference" else "",
        )  # fmt: skip
        for name in scores(c.read, "forget")
    ]
    if r.oracles_read:
        never = float(np.mean([1 - apart("Min-K 40 %", o) for o in r.oracles_read]))
        found.append(
            c.figure(
                "PrivLeak",
                lambda read: 100 * ((1 - apart("Min-K 40 %", read)) - never) / max(never, 1e-9),
                unit="%",
                n=n,
                direction="near 0",
                note="MUSE's: below 0 still memorised, above 0 pushed beyond a retrained model",
            )
        )
    return found


def truth(c: Compared, choices: Choices | None, mean: MeanOf) -> list[Measurement]:
    """TOFU's truth ratio and forget quality; nothing without answers to choose from."""
    if choices is None:
        return []
    r, n = c.references, len(c.read.forget)
    edited, original = choices.ratios(c.edited, mean), choices.ratios(r.holders[0], mean)
    never = [choices.ratios(o, mean) for o in r.oracles[:FEW]]
    level = [float(np.minimum(t, 1 / np.maximum(t, 1e-300)).mean()) for t in (edited, original, *never)]
    found = [
        measurement(
            "truth ratio",
            level[0],
            level[1],
            level[2:],
            unit="",
            direction=NEAR,
            n=n,
            note=f"mean of min(TR, 1 / TR), {mean} mean over wrong answers: figures of the other mean differ",
        )  # fmt: skip
    ]
    if len(never) > 1:
        pairs = [forget_quality(a, b).log10_p for i, a in enumerate(never) for b in never[i + 1 :]]
        values = [
            float(np.mean([forget_quality(t, other).log10_p for other in never])) for t in (edited, original)
        ]
        found.append(
            measurement(
                "forget quality",
                values[0],
                values[1],
                pairs,
                unit="log10 p",
                direction="above -1.3, as retrained models among each other",
                n=n,
                note=f"two-sample KS test of {n} questions; not comparable at another n",
            )  # fmt: skip
        )
    return found


def answers(
    c: Compared, decode: Callable[[Sequence[int]], str], seed: int
) -> tuple[list[Measurement], Passages]:
    """ROUGE-L of what the models say to the prompts, greedily and drawn, and some of it side by side.

    Of a text without a prompt its first half is the prompt.
    """
    r, whole = c.references, [_asked(p, a) for p, a in _texts(c.references.request.forget)][:ASKED]
    models = {"edited": c.edited, "original": r.holders[0]} | {
        f"oracle {i}": m for i, m in enumerate(r.oracles[:FEW])
    }
    said = {name: _said(m, whole, greedy) for name, m in models.items()}
    likeliest = {name: _recall(answers, whole, decode) for name, answers in said.items()}
    best = {
        name: np.max(
            [_recall(_said(m, whole, drawn(seeded(seed + k))), whole, decode) for k in range(DRAWS)], 0
        )
        for name, m in models.items()
    }
    found = []
    for name, values, note in (
        ("ROUGE-L recall", likeliest, "of the likeliest answer"),
        ("ROUGE-L recall, drawn", best, f"the best of {DRAWS} answers drawn at temperature 1"),
    ):
        interval = bootstrap(np.mean, values["edited"], rng=seeded(seed)) if len(whole) > 1 else None
        found.append(
            measurement(
                name,
                float(values["edited"].mean()),
                float(values["original"].mean()),
                [float(v.mean()) for n, v in values.items() if n.startswith("oracle")],
                unit="share",
                direction=NEAR,
                n=len(whole),
                interval=interval,
                note=note,
            )  # fmt: skip
        )
    rows = {
        decode(prompt.tolist()): {
            "truth": decode(truth.tolist()),
            **{name.removesuffix(" 0"): decode(said[name][i].tolist()) for name in list(models)[:3]},
        }
        for i, (prompt, truth) in enumerate(whole[:SHOWN])
    }
    return found, Passages(name="answers", rows=rows)


def _said(model: Module, whole: Sequence[tuple[Tensor, Tensor]], choose: Choose) -> list[Tensor]:
    return continued(model, [p for p, _ in whole], [len(a) for _, a in whole], choose)


def _recall(
    said: Sequence[Tensor], whole: Sequence[tuple[Tensor, Tensor]], decode: Callable[[Sequence[int]], str]
) -> Floats:
    return np.array(
        [
            rouge_l(decode(s.tolist()).split(), decode(t.tolist()).split() or ["-"])[0]
            for s, (_, t) in zip(said, whole, strict=True)
        ]
    )


def _texts(data: Data[Any]) -> list[tuple[Tensor, Tensor]]:
    """Ids of each text's prompt and of its answer."""
    found = []
    for batch in data.batches():
        task = data.task
        for ids, labels, there in zip(task.ids(batch), task.labels(batch), task.present(batch), strict=True):
            own, first = ids[there.bool()], (labels[there.bool()] >= 0).nonzero()
            at = int(first[0]) if len(first) else 0
            found.append((own[:at], own[at:]))
    return found


def _asked(prompt: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    if not len(prompt):
        half = max(1, len(answer) // 2)
        prompt, answer = answer[:half], answer[half:]
    return prompt, answer[:LONGEST]


def _answers(data: Data[Any]) -> list[list[int]]:
    return [answer.tolist() for _, answer in _texts(data)]


def _named(part: str) -> str:
    return {"forget": "deleted", "retain": "retained", "heldout": "held-out", "general": "general"}[part]


def _mean(told: Told, of: Callable[[Seen], float]) -> float:
    return float(np.mean([of(s) for s in told.seen]))


def _extracted(seen: Seen) -> float:
    return extraction_strength(seen.right[:-1] or seen.right)


def _probability(part: str, read: Read) -> float:
    return float(np.exp(-getattr(read, part).losses).mean())


def _perplexity(part: str, read: Read) -> float:
    told: Told = getattr(read, part)
    log_p = np.concatenate([s.log_p for s in told.seen])
    return float(np.exp(min(-log_p.mean(), 700.0)))


def plain_bytes(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, four each, where no tokenizer is at hand."""
    return torch.tensor(list(ids), dtype=torch.int32).numpy().tobytes()
