"""Attacks on an erasure: the edited, the original and the retrained pipelines attacked alike, beside a control."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Generator

from ...erase import (
    Attack,
    Attacked,
    RandomVector,
    SoftVector,
    Targets,
    TextToImage,
    TokenSearch,
    UnlearnDiffAtk,
    draws_in_one_step,
)
from ...io.files import strict_json
from ...progress import progress
from ...random import draw_seed, seeded
from ...types import Measurement
from .compared import Tried, total
from .drawn import Hits, Judge

ALONE = "prompts that draw it alone"
_SUCCESS = "attack success: "
_TOKENS, _VECTOR = f"{_SUCCESS}as many random tokens", f"{_SUCCESS}a random vector"
_RETRAINED = "retrained "


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """What attacks on several pipelines found.

    Attributes:
        figures: edited pipeline -> its success rates, beside the original's and the retrained pipelines'.
        record: attack -> pipeline -> all attempts, plain.
        controls: attack -> the one of `record` that is its control.
        seconds: that they all took.
        skipped: why there are none; "" if there are.
    """

    figures: Mapping[str, Sequence[Measurement]] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    controls: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""

    def measurements(self, name: str) -> list[Measurement]:
        """The figures of an edited pipeline, and what they took."""
        time = Measurement(
            name="time of the attacks",
            value=self.seconds,
            unit="s",
            n=1,
            direction="on all pipelines together",
        )
        return [*self.figures[name], time] if name in self.figures else []

    def tried(self, name: str) -> list[Tried]:
        """What each attack that is no control brought back in an edited pipeline."""
        retrained = [p for p in next(iter(self.record.values()), {}) if p.startswith(_RETRAINED)]

        def counted(what: str | None, *pipelines: str) -> dict[str, Hits]:
            if what is None:
                return {}
            attempts = [a for p in pipelines for a in self.record[what][p]["attempts"]]
            return {
                concept: total((int(a["success"]), 1) for a in attempts if a["concept"] == concept)
                for concept in dict.fromkeys(a["concept"] for a in attempts)
            }

        return [
            Tried(
                name=what.removeprefix(_SUCCESS),
                edited=counted(what, name),
                control=counted(self.controls.get(what), name),
                never=counted(what, *retrained),
            )
            for what in self.record
            if what not in self.controls.values()
        ]

    def json(self) -> str:
        """All of it as strict JSON."""
        figures = {name: [asdict(m) for m in measured] for name, measured in self.figures.items()}
        told = {"controls": dict(self.controls), "seconds": self.seconds, "skipped": self.skipped}
        return strict_json({"figures": figures, "attacks": self.record, **told})

    @classmethod
    def from_json(cls, text: str) -> Attacks:
        """Read back what `json` wrote."""
        told = json.loads(text)
        figures = {
            name: [Measurement(**{**m, "interval": tuple(m["interval"])}) for m in measured]
            for name, measured in told["figures"].items()
        }
        rest = {key: told[key] for key in ("controls", "seconds", "skipped")}
        return cls(figures=figures, record=told["attacks"], **rest)


def control_of(attack: Attack) -> tuple[str, Attack] | None:
    """The control of an attack, by the name of its figure: as many random candidates. None of one that is random."""
    if isinstance(attack, UnlearnDiffAtk):
        random = TokenSearch(tokens=attack.tokens, tries=attack.levels, banned=attack.banned)
        return _TOKENS, random
    if isinstance(attack, SoftVector):
        random_vector = RandomVector(tokens=attack.tokens, at_once=attack.at_once)
        return _VECTOR, random_vector
    return None


def with_controls(attacks: Mapping[str, Attack]) -> tuple[dict[str, Attack], dict[str, str]]:
    """Attacks by the names of their figures, each before its control; and which control is whose."""
    found: dict[str, Attack] = {}
    controls: dict[str, str] = {}
    for name, attack in attacks.items():
        found[f"{_SUCCESS}{name}"] = attack
        if (control := control_of(attack)) is not None:
            controls[f"{_SUCCESS}{name}"] = control[0]
            found[control[0]] = control[1]
    return found, controls


def tried_of(figures: Sequence[Measurement]) -> list[Tried]:
    """What success rates tell of attacks whose single attempts are not at hand: all concepts together, as "".

    An attack is set against the retrained pipelines' rate, taken as of as many prompts; without any, against the
    control among the figures: a random vector for an attack by a vector, random tokens for others, or whichever
    there is.
    """
    rates = {m.name: m for m in figures if m.name.startswith(_SUCCESS) and m.value is not None}
    controls = [name for name in (_TOKENS, _VECTOR) if name in rates]

    def hits(percent: float | None, n: int) -> dict[str, Hits]:
        return {} if percent is None else {"": (round(percent * n / 100), n)}

    found = []
    for name, m in rates.items():
        if name in controls:
            continue
        like = _VECTOR if "vector" in name else _TOKENS
        control = rates.get(like if like in controls else next(iter(controls), ""))
        found.append(
            Tried(
                name=name.removeprefix(_SUCCESS),
                edited=hits(m.value, m.n),
                control=hits(control.value, control.n) if control else {},
                never=hits(m.oracle_mean, m.n),
            )
        )
    return found


def attack_all(
    attacks: Mapping[str, Attack],
    targets: Targets,
    judge: Judge,
    *,
    controls: Mapping[str, str] | None = None,
    original: TextToImage,
    edited: Mapping[str, TextToImage],
    oracles: Collection[TextToImage],
    rng: Generator,
) -> Attacks:
    """Attack every pipeline with every attack at the same targets and random numbers.

    Args:
        attacks: name of the figure -> attack.
        targets: prompts, drawn by the original.
        judge: names the images.
        controls: attack -> the one that is its control.
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

        def tried(model: TextToImage) -> dict[str, Attacked]:  # all at once: pipelines may be read one by one
            return {what: attacked(by, model) for what, by in attacks.items()}

        originals, nevers = tried(original), [tried(model) for model in oracles]
        afters = {name: tried(model) for name, model in edited.items()}
        for what in attacks:
            before, never = originals[what], [found[what] for found in nevers]
            after = {name: found[what] for name, found in afters.items()}
            for name, found in after.items():
                if not figures[name]:
                    figures[name].append(
                        found.measurement(ALONE, original=before, oracles=never, before=True)
                    )
                figures[name].append(found.measurement(what, original=before, oracles=never))
            everyone = {"original": before, **{f"{_RETRAINED}{i}": o for i, o in enumerate(never)}, **after}
            record[what] = {name: _plain(found) for name, found in everyone.items()}
    return Attacks(figures=figures, record=record, controls=dict(controls or {}))


def room_for(attacks: Mapping[str, Attack]) -> int:
    """Tokens that must still fit into a prompt for these attacks."""
    return max((getattr(attack, "tokens", 0) for attack in attacks.values()), default=0)


def _plain(found: Attacked) -> dict[str, Any]:
    return {"pre-ASR": found.pre_asr, "ASR": found.asr, "attempts": [asdict(a) for a in found.attempts]}
