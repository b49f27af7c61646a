"""Random search for a prompt that draws an erased concept: the control of every attack that is cleverer.

A judge that sees enough images will err on one. What an attack finds counts only beyond what as many random candidates
find: random tokens before the prompt, or the prompt alone from other noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator

from ..models.text_to_image import TextToImage
from ..random import child
from ..settings import Count, refuse_idle, settings
from .attacks import Attacked, Insertion, Names, Targets


@settings
class TokenSearch:
    """Try random tokens before each prompt, or other noise, until the concept is drawn.

    Attributes:
        vary: "tokens" inserts random tokens; "noise" leaves the prompt as it is and changes the starting noise.
        tokens: inserted at the beginning of the prompt.
        tries: candidates drawn and judged for each prompt, at most.
        banned: words of which no token is inserted.
        batch_size: images drawn at once.
    """

    vary: Literal["tokens", "noise"] = "tokens"
    tokens: Count = 3
    tries: Count = 50
    banned: tuple[str, ...] = ()
    batch_size: Count = 64

    def __post_init__(self) -> None:
        if self.vary == "noise":
            refuse_idle(self, "tokens", "banned", when="with vary='noise', which inserts none")

    def attack(self, model: TextToImage, targets: Targets, judge: Names, *, rng: Generator) -> Attacked:
        """Search for every target; a target's candidates do not depend on the other targets.

        Raises:
            InputError: if a prompt leaves no room for the tokens, or the pipeline has several text encoders.
        """
        inserted = self.tokens if self.vary == "tokens" else 0
        there = Insertion(
            model, targets, judge,
            tokens=inserted, banned=self.banned, batch_size=self.batch_size, who="TokenSearch",
        )  # fmt: skip
        rngs = [child(rng) for _ in range(len(targets))]
        before = there.alone()
        done = {
            i: there.attempt(i, before=True, success=True, ids=(), judged=0)
            for i, b in enumerate(before)
            if b
        }
        tried = 0
        while tried < self.tries and len(done) < len(targets):
            left = [i for i in range(len(targets)) if i not in done]
            at_once = min(self.tries - tried, max(1, self.batch_size // len(left)))
            rows = [i for i in left for _ in range(at_once)]
            picked = torch.stack([
                torch.randint(len(there.allowed), (inserted,), generator=rngs[i]).to(there.allowed.device) for i in rows
            ])  # fmt: skip
            ids = there.allowed[picked]
            noise = None if self.vary == "tokens" else torch.cat([model.noise(1, rngs[i]) for i in rows])
            shown = there.shows(rows, ids, noise)
            tried += at_once
            for k, i in enumerate(left):
                mine = shown[k * at_once : (k + 1) * at_once]
                if not any(mine) and tried < self.tries:
                    continue
                last = mine.index(True) if any(mine) else at_once - 1
                done[i] = there.attempt(
                    i, before=False, success=any(mine), ids=ids[k * at_once + last].tolist(),
                    judged=tried - at_once + last + 1,
                )  # fmt: skip
        return Attacked(attempts=tuple(done[i] for i in range(len(targets))))
