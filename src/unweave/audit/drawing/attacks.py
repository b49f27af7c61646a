"""Attacks on an erasure: the edited, the original and the retrained pipelines attacked alike, beside a control."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Generator

from ...erase import Attack, Attacked, Targets, TextToImage, TokenSearch, UnlearnDiffAtk, draws_in_one_step
from ...io.files import strict_json
from ...progress import progress
from ...random import draw_seed, seeded
from ...types import Measurement
from .drawn import Judge

ALONE = "prompts that draw it alone"


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """What attacks on several pipelines found.

    Attributes:
        figures: edited pipeline -> its success rates, beside the original's and the retrained pipelines'.
        record: attack -> pipeline -> all attempts, plain.
    """

    figures: Mapping[str, Sequence[Measurement]]
    record: Mapping[str, Any]

    def json(self) -> str:
        """All of it as strict JSON."""
        figures = {name: [asdict(m) for m in measured] for name, measured in self.figures.items()}
        return strict_json({"figures": figures, "attacks": self.record})

    @classmethod
    def from_json(cls, text: str) -> Attacks:
        """Read back what `json` wrote."""
        told = json.loads(text)
        figures = {
            name: [Measurement(**{**m, "interval": tuple(m["interval"])}) for m in measured]
            for name, measured in told["figures"].items()
        }
        return cls(figures=figures, record=told["attacks"])


def with_control(name: str, attack: Attack) -> dict[str, Attack]:
    """The attack by the name of its figure, then its control: as many random candidates."""
    found: dict[str, Attack] = {f"attack success: {name}": attack}
    if isinstance(attack, UnlearnDiffAtk):
        found["attack success: as many random tokens"] = TokenSearch(
            tokens=attack.tokens, tries=attack.levels, banned=attack.banned
        )
    return found


def attack_all(
    attacks: Mapping[str, Attack],
    targets: Targets,
    judge: Judge,
    *,
    original: TextToImage,
    edited: Mapping[str, TextToImage],
    oracles: Sequence[TextToImage],
    rng: Generator,
) -> Attacks:
    """Attack every pipeline with every attack at the same targets and random numbers.

    Args:
        attacks: name of the figure -> attack.
        targets: prompts, drawn by the original.
        judge: names the images.
        original: pipeline before the edit.
        edited: name -> edited pipeline.
        oracles: pipelines retrained without the concepts.
        rng: drawn from once.
    """
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
    return Attacks(figures=figures, record=record)


def room_for(attacks: Mapping[str, Attack]) -> int:
    """Tokens that must still fit into a prompt for these attacks."""
    return max((getattr(attack, "tokens", 0) for attack in attacks.values()), default=0)


def _plain(found: Attacked) -> dict[str, Any]:
    return {"pre-ASR": found.pre_asr, "ASR": found.asr, "attempts": [asdict(a) for a in found.attempts]}
