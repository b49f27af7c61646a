"""The audit of a language model that was to forget texts: every figure, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator
from torch.nn import Module

from ...interpret import SparseAutoencoder
from ...random import child, draw_seed
from ...tasks import Autoregressive, requires
from ...types import Data, Measurement, Request
from ..classifier.readings import HEAD, RELEARN, Readings
from ..classifier.run import listed
from ..classifier.verdict import Court, Decision
from ..cost import cost
from ..latents import still_active_read
from ..measured import measurement
from ..result import Audit, Panel, Samples
from .figures import NEAR, Choices, Compared, answers, knowledge, memberships, plain_bytes, truth
from .read import Read
from .references import References
from .scores import MeanOf

MOST = 1000
"""Texts of a part that every model reads."""


@dataclass(frozen=True)
class Auditor:
    """Judges edited language models of one request by the same references, which are read once.

    Attributes:
        references: models that hold the texts, and retrained ones.
        choices: right and wrong answers, for the truth ratio.
        decode: token ids -> words, for what the models say.
        truth_mean: over the wrong answers of a truth ratio.
        dictionary: (sparse autoencoder of a layer of the original, that layer's name), to see which of its latents that
            spoke of the texts are still active; see `audit.latents`.
    """

    references: References
    choices: Choices | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    truth_mean: MeanOf = "geometric"
    dictionary: tuple[SparseAutoencoder, str] | None = None

    @classmethod
    def of(
        cls,
        request: Request[Any],
        *,
        original: Module,
        holders: Sequence[Module] = (),
        oracles: Sequence[Module] = (),
        rng: Generator,
        paraphrases: Data[Any] | None = None,
        general: Data[Any] | None = None,
        choices: Choices | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        truth_mean: MeanOf = "geometric",
        dictionary: tuple[SparseAutoencoder, str] | None = None,
    ) -> Auditor:
        """Take what to compare with.

        Args:
            request: texts that were to be forgotten.
            original: the model before the edit.
            holders: further models trained with the texts by the same recipe, with other seeds.
            oracles: models trained by the same recipe without them. Nothing is decided with fewer than four of them,
                or fewer than four models that hold the texts.
            rng: governs samples of large parts, relearning and cheats.
            paraphrases: the texts to forget in other words, one each in the same order.
            general: texts of another kind, whose perplexity tells what the edit cost elsewhere.
            choices: right and wrong answers, for the truth ratio.
            decode: token ids -> words; without it nothing is generated.
            truth_mean: over the wrong answers of a truth ratio.
            dictionary: see `Auditor`.

        Raises:
            EmptyDataError: if a part of the request is empty.
            InputError: if the data hold no texts.
        """
        for part in (request.forget, request.retain, request.heldout):
            part.require_examples("the audit of a language model")
            requires(part.task, Autoregressive, "the audit of a language model")
        small = Request(request.forget, _cut(request.retain, child(rng)), _cut(request.heldout, child(rng)))
        general = None if general is None else _cut(general, child(rng))
        everyone = [original, *(model for model in holders if model is not original)]
        references = References(small, everyone, list(oracles), draw_seed(rng), paraphrases, general)
        return cls(references, choices, decode, truth_mean, dictionary)

    def decide(self, edited: Module | Sequence[Module]) -> Decision:
        """The verdict alone, with its controls."""
        several = listed(edited)
        return self._decided(several, [self.references.look(model) for model in several])[0]

    def audit(
        self,
        edited: Module | Sequence[Module],
        *,
        method: str = "",
        seconds: Mapping[str, float] | None = None,
    ) -> Audit:
        """Judge one edited model, or the mean of several; they are left unchanged.

        Args:
            edited: the model in question, or several edited by one method from as many models that hold the texts;
                the figures are the first one's.
            method: what was done to it, in words.
            seconds: wall clock of the "edit" and of one "retrain".
        """
        r, several = self.references, listed(edited)
        reads = [r.look(model) for model in several]
        decision, readings = self._decided(several, reads)
        c = Compared(r, several[0], reads[0])
        figures = [*knowledge(c), *truth(c, self.choices, self.truth_mean)]
        figures += memberships(c, plain_bytes if self.decode is None else self._bytes)
        if self.dictionary is not None:
            sae, layer = self.dictionary
            figures.append(
                still_active_read(
                    sae,
                    layer,
                    r.request.forget,
                    r.request.heldout,
                    edited=several[0],
                    original=r.holders[0],
                    oracles=r.oracles,
                )  # fmt: skip
            )
        panels: list[Panel] = [_scores(c)]
        if self.decode is not None:
            said, shown = answers(c, self.decode, r.seed)
            figures += said
            panels.append(shown)
        return Audit(
            kind="language", method=method, verdict=decision.verdict, controls=decision.controls, rates=decision.rates,
            measurements=(*figures, *_under(c, readings), *cost(seconds)), panels=tuple(panels),
        )  # fmt: skip

    def _bytes(self, ids: Sequence[int]) -> bytes:
        assert self.decode is not None
        return self.decode(ids).encode()

    def _decided(self, several: Sequence[Module], read: Sequence[Read]) -> tuple[Decision, Readings | None]:
        r = self.references
        readings = r.measured(several, read) if r.rulers else None
        return self._court(len(several)).judge(readings), readings

    def _court(self, several: int) -> Court:
        known = self.__dict__.setdefault("_courts", {})
        if several not in known:
            known[several] = Court.of(self.references, several)
        court: Court = known[several]
        return court


def _cut(data: Data[Any], rng: Generator) -> Data[Any]:
    if len(data) <= MOST:
        return data
    return data.subset(torch.randperm(len(data), generator=rng)[:MOST].sort().values)


def _under(c: Compared, readings: Readings | None) -> list[Measurement]:
    """What lies under the answers, each on the scale from models that hold the texts (0) to retrained ones (1)."""
    if readings is None:
        return []
    held, never = c.references.readings
    kinds = {HEAD: [x.hidden for x in (readings, held, never)]}
    kinds |= {name: [x.more[name] for x in (readings, held, never)] for name in readings.more}
    found = [
        measurement(
            name,
            float(own[0]),
            float(holders[0]),
            oracles.tolist(),
            unit="position",
            n=len(c.read.forget),
            direction="near 1; 0 is where models that hold the texts lie",
        )  # fmt: skip
        for name, (own, holders, oracles) in kinds.items()
    ]
    steps = never.relearn[np.isfinite(never.relearn)].tolist()
    found.append(
        measurement(
            RELEARN,
            float(readings.relearn[0]),
            float(held.relearn[0]),
            steps,
            unit="steps",
            direction=NEAR,
            n=len(c.read.forget),
        )  # fmt: skip
    )
    return found


def _scores(c: Compared) -> Samples:
    r = c.references
    samples = {"edited": c.read.forget.phi.tolist(), "original": r.holders_read[0].forget.phi.tolist()}
    for name, read in (("oracle", r.oracles_read), ("holders", r.holders_read[1:])):
        if read:
            samples[name] = np.mean([x.forget.phi for x in read], 0).tolist()
    return Samples(name="scores", unit="log odds of the answer, a token", samples=samples)
