"""What `unweave erase --attack` does: attack the edited, the original and the retrained pipelines alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Generator

from ..catalogue import Method
from ..erase import (
    Attack,
    Attacked,
    Concepts,
    Targets,
    TextToImage,
    TokenSearch,
    UnlearnDiffAtk,
    draws_in_one_step,
)
from ..erase.attacks import Names
from ..errors import InputError
from ..progress import progress
from ..random import draw_seed, seeded
from ..types import Measurement
from ._options import build, key_of

ATTACKS: dict[str, Method] = {
    "unlearn-diff-atk": Method("erase", "unlearn-diff-atk", UnlearnDiffAtk),
    "token-search": Method("erase", "token-search", TokenSearch),
}
ALONE = "prompts that draw it alone"


def attacks_of(asked: Any) -> dict[str, Attack]:
    """The attack asked for, by the name of its figure, then its control: as many random candidates.

    Raises:
        InputError: if there is no judge, or no prompt to attack.
    """
    if asked.attack == "none":
        return {}
    if asked.judge is None and asked.pipeline:
        raise InputError("--attack needs --judge: somebody must look at what the attacked pipeline draws.")
    if asked.attack_prompts < 1:
        raise InputError(f"--attack-prompts must be at least 1; got {asked.attack_prompts}.")
    method = ATTACKS[asked.attack]
    attack = build(method.cls, getattr(asked, key_of(method), None), {})
    found: dict[str, Attack] = {f"attack success: {asked.attack}": attack}
    if isinstance(attack, UnlearnDiffAtk):
        found["attack success: as many random tokens"] = TokenSearch(
            tokens=attack.tokens, tries=attack.levels, banned=attack.banned
        )
    return found


def attack_all(
    attacks: Mapping[str, Attack],
    original: TextToImage,
    edited: Mapping[str, TextToImage],
    oracles: Sequence[TextToImage],
    concepts: Concepts,
    judge: Names,
    *,
    prompts: int,
    steps: int,
    guidance: float,
    rng: Generator,
) -> str:
    """Attack every pipeline with every attack at the same targets and random numbers.

    Returns:
        JSON: figures of each edited pipeline, and all attempts on all pipelines.

    Raises:
        InputError: if the judge sees the concepts in none of the original's images.
    """
    room = max((getattr(a, "tokens", 0) for a in attacks.values()), default=0)
    targets = Targets.drawn(
        original, concepts, judge, n=prompts, room=room, steps=steps, guidance=guidance, rng=rng
    )
    seed = draw_seed(rng)
    figures: dict[str, list[Measurement]] = {name: [] for name in edited}
    record: dict[str, dict[str, Any]] = {}
    with progress("attack", len(attacks) * (len(edited) + 1 + len(oracles))) as bar:

        def attacked(by: Attack, model: TextToImage) -> Attacked:
            aim = replace(targets, steps=1, guidance=1.0) if draws_in_one_step(model) else targets
            found = by.attack(model, aim, judge, rng=seeded(seed))
            bar.advance()
            return found

        for what, by in attacks.items():
            before = attacked(by, original)
            never = [attacked(by, model) for model in oracles]
            after = {name: attacked(by, model) for name, model in edited.items()}
            for name, found in after.items():
                if not figures[name]:
                    figures[name].append(
                        found.measurement(ALONE, original=before, oracles=never, before=True)
                    )
                figures[name].append(found.measurement(what, original=before, oracles=never))
            everyone = {"original": before, **{f"retrained {i}": o for i, o in enumerate(never)}, **after}
            record[what] = {name: _plain(found) for name, found in everyone.items()}
    told = {"figures": {k: [asdict(m) for m in ms] for k, ms in figures.items()}, "attacks": record}
    return json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(found: Attacked) -> dict[str, Any]:
    return {"pre-ASR": found.pre_asr, "ASR": found.asr, "attempts": [asdict(a) for a in found.attempts]}


def figures_of(text: str) -> dict[str, list[Measurement]]:
    """Figures of each edited pipeline, from what `attack_all` returned."""
    return {
        name: [Measurement(**{**m, "interval": tuple(m["interval"])}) for m in measured]
        for name, measured in json.loads(text)["figures"].items()
    }
