"""Has a text-to-image pipeline forgotten its concepts? Drawn, judged, attacked, and set beside the original.

All pipelines draw the same prompts from the same noise. A judge names what it sees; its word is as good as its own
accuracy on the original's images, which is the first control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...erase import Concepts
from ...moved import dropped, renamed
from ...types import Measurement
from ..cost import cost, memory_cost
from ..result import Audit, Rows, Verdict
from .attacks import tried_of
from .compared import Compared, Tried
from .damage import strayed
from .drawn import Asked, Drawn, Judge
from .figures import by_concept, distance, drawn_concepts
from .verdict import controls_of, decide


@renamed(concepts="asked")
@dropped(rng="nothing is drawn at random", margin="see the rules of unweave.audit.drawing.verdict")
def audit_erasure(
    asked: Asked | Concepts,
    edited: Drawn,
    original: Drawn,
    oracles: Sequence[Drawn] = (),
    *,
    judge: Judge | None,
    real: Tensor | None = None,
    changed: float,
    seconds: float,
    memory: int | None = None,
    attacks: Sequence[Measurement] = (),
    latents: Measurement | None = None,
    tried: Sequence[Tried] = (),
    turns: Mapping[str, Mapping[str, float]] | None = None,
    caveats: Sequence[str] = (),
    method: str = "edit",
) -> Audit:
    """Compare an edited pipeline's images with the original's and with those of pipelines that never saw the concepts.

    Args:
        asked: what all were asked to draw.
        edited: images of the edited pipeline.
        original: images of the pipeline before the edit.
        oracles: images of pipelines retrained without the concepts.
        judge: that named the images; without one nothing is concluded.
        real: real images of preserved concepts, to measure quality against; the original's unless given.
        changed: share of the pipeline's weights that the edit changed.
        seconds: the edit took.
        memory: bytes that it needed at most, beyond the pipeline itself; None if unknown.
        attacks: attack success rates, to be shown.
        latents: which latents that spoke of the concepts are still active, to be shown; `audit.latents` measures it.
        tried: what attacks brought back, a concept, for the verdict; read off the rates for all, unless given.
        turns: concept -> erased concept -> % of its images that show it after that erasure, one after the other.
        caveats: what could not be looked at, one sentence each.
        method: name of the edit.

    Returns:
        The audit: `inconclusive` without a judge, or where it does not know the original's images.
    """
    asked = Asked(concepts=asked) if isinstance(asked, Concepts) else asked
    told = attacks if latents is None else (latents, *attacks)
    tried = tried or tried_of(attacks)
    looked = [None if judge is None else strayed(judge, drawn, original) for drawn in (edited, *oracles)]
    c = Compared(
        concepts=asked.concepts, edited=edited, original=original, oracles=oracles, tried=tried, strayed=looked[0],
        neighbours=asked.neighbours, earlier=asked.earlier, also_strayed=[f for f in looked[1:] if f is not None],
    )  # fmt: skip
    controls = () if judge is None else controls_of(c)
    panels = [] if judge is None else [Rows(name="concepts", unit="%", rows=by_concept(c))]
    panels += [Rows(name="turns", unit="%", rows={k: dict(row) for k, row in turns.items()})] if turns else []
    figures = [] if judge is None else [*drawn_concepts(c), distance(c, judge, real)]
    return Audit(
        kind="drawing",
        method=method,
        verdict=_UNSEEN if judge is None else decide(c, controls, caveats),
        controls=controls,
        measurements=(*figures, *told, _weights(changed), *cost({"edit": seconds}), memory_cost(memory)),
        panels=tuple(panels),
    )


def _weights(changed: float) -> Measurement:
    return Measurement(
        name="weights changed", value=100 * changed, unit="%", direction="as few as needed", n=1
    )


_UNSEEN = Verdict(
    outcome="inconclusive",
    reason="No judge was given, so nobody has looked at the images.",
    next_step="Give --judge.",
)
