"""The parts of an audit's report that differ by kind of model: its pictures, and tables of what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from ..audit.result import Audit
from . import images, marks, pictures, words
from .page import Section

Images = Mapping[str, Mapping[str, Tensor]]
"""Column -> concept -> images [n, channels, height, width], about -1 to 1."""


def evidence(audits: Sequence[Audit], run: Mapping[str, Any], drawn: Images) -> list[Section]:
    """The pictures of a report, in order; those that there are."""
    kinds = {"classifier": _classifier, "drawing": _drawing, "language": _language}
    found = [*kinds[audits[0].kind](audits, drawn), _cost(audits, run)]
    return [part for part in found if part.picture or part.rows]


def tables(audit: Audit) -> list[Section]:
    """What the pictures show, as tables."""
    asked = (
        ("classes", "Accuracy class by class", "class",
         {"edited": "edited, %", "original": "original, %", "oracle": "retrained, %"}),
        ("layers", "Masks layer by layer", "parameter",
         {"edited": "kept, edited", "original": "kept, original", "iou_original": "overlap with original",
          "iou_oracle": "overlap with retrained"}),
    )  # fmt: skip
    return [
        Section(
            heading=heading,
            columns=(label, *series.values()),
            rows=[(name, *(words.number(row.get(s)) for s in series)) for name, row in rows.items()],
        )
        for panel, heading, label, series in asked
        if (rows := audit.rows(panel))
    ]


def _classifier(audits: Sequence[Audit], drawn: Images) -> list[Section]:
    first = audits[0]
    several = " The first row is the model that is handed out." if len(audits) > 1 else ""
    layers = first.rows("layers")
    return [
        Section(
            heading="How near to a model that never saw the data",
            caption="0 is where models trained on the deleted examples lie on average, 1 is where models retrained "
            f"without them lie.{several}",
            picture=_with_others(pictures.position(audits), audits),
        ),
        Section(
            heading="Scores of the deleted examples",
            caption="How sure each model is of the right answer on each example that was to be deleted. After "
            "forgetting, the edited model's shape should match the retrained models', not the original's.",
            picture=pictures.scores(first.samples("scores")),
        ),
        Section(
            heading="Accuracy class by class",
            caption="On new examples. The edited model should lie on the retrained models; the figure at the right is "
            "the edited model's.",
            picture=pictures.dumbbells(
                first.rows("classes"),
                {k: marks.SERIES[k] for k in ("original", "oracle", "edited")},
                unit="accuracy on held-out examples, %",
                apart=("edited", "oracle"),
                figure="edited",
            ),
        ),
        _density(layers),
        _overlap(layers),
    ]


def _language(audits: Sequence[Audit], drawn: Images) -> list[Section]:
    position, scores = _classifier(audits, drawn)[:2]
    series = {
        "truth": "taught",
        "original": "before",
        "edited": "this model",
        "oracle": "retrained without it",
    }
    said = Section(
        heading="What the models say",
        caption="To the prompts of some deleted texts, word by word the likeliest.",
        columns=("prompt", *series.values()),
        rows=[
            (prompt, *(row.get(s, "–") for s in series))
            for prompt, row in audits[0].passages("answers").items()
        ],
    )
    return [position, scores, said]


def _density(layers: Mapping[str, Mapping[str, float]]) -> Section:
    percent = {n: {s: 100 * row[s] for s in ("original", "edited") if s in row} for n, row in layers.items()}
    return Section(
        heading="Weights kept, layer by layer",
        caption="The model is pruned. This is the share of each layer's weights that it keeps, in %; the figure at the "
        "right is the edited model's.",
        picture=pictures.dumbbells(
            percent,
            {"original": "original model", "edited": "edited model"},
            unit="weights kept, %",
            apart=("edited", "original"),
            figure="edited",
            ends=(0.0,),
        ),
    )


def _overlap(layers: Mapping[str, Mapping[str, float]]) -> Section:
    return Section(
        heading="Which weights are kept",
        caption="Overlap of the edited model's mask with the masks of the original and of retrained models. What was "
        "learnt from the deleted examples can show in the choice of weights, too. The figure at the right is the "
        "overlap with retrained models.",
        picture=pictures.dumbbells(
            layers,
            {
                "iou_original": "with the original model's mask",
                "iou_oracle": "with the retrained models' masks",
            },
            unit="overlap (IoU): 0 none, 1 the same weights",
            apart=("iou_original", "iou_oracle"),
            figure="iou_oracle",
            ends=(0.0, 1.0),
        ),
    )


def _drawing(audits: Sequence[Audit], drawn: Images) -> list[Section]:
    first = audits[0]
    concepts, turns = first.rows("concepts"), first.rows("turns")
    asked = list(next(iter(turns.values()), {}))
    return [
        Section(
            heading="What it draws",
            caption="The same prompts from the same noise, before and after.",
            picture=_with_others(images.grids(drawn), audits),
        ),
        Section(
            heading="Concept by concept",
            caption="As the judge named the images.",
            picture=pictures.dumbbells(
                concepts,
                {
                    "original": "original pipeline",
                    "oracle": "retrained without them",
                    "edited": "edited pipeline",
                },
                unit="images that show the concept asked for, %",
                apart=("edited", "original"),
                figure="edited",
                ends=(0.0, 100.0),
            ),
            columns=("concept", "original, %", *(f"{a.method}, %" for a in audits), "retrained, %"),
            rows=[
                (
                    concept,
                    words.number(row.get("original")),
                    *(words.number(a.rows("concepts").get(concept, {}).get("edited")) for a in audits),
                    words.number(row.get("oracle")),
                )
                for concept, row in concepts.items()
            ],
        ),
        Section(
            heading="One after the other",
            caption="Images that show the concept asked for, after each erasure: does the first stay forgotten?",
            columns=("erased so far", *(f"{c}, %" for c in asked)),
            rows=[
                (f"after {step}", *(words.number(row.get(c)) for c in asked)) for step, row in turns.items()
            ],
        ),
    ]


def _cost(audits: Sequence[Audit], run: Mapping[str, Any]) -> Section:
    return Section(
        heading="What it cost",
        caption="Time of the edit, without the audit.",
        picture=pictures.costs(*words.costs(audits, run)),
    )


def _with_others(picture: Markup | None, audits: Sequence[Audit]) -> Markup | None:
    """A picture, and under it what came out for the methods that the first is compared with."""
    lines = Markup("").join(
        Markup('<li><span class="tick" aria-hidden="true">{}</span><strong>{}</strong>, {}: {}</li>').format(
            a.word.symbol, a.method, a.verdict.outcome, a.verdict.why
        )
        for a in audits[1:]
    )
    if not lines:
        return picture
    return (picture or Markup("")) + Markup('<ul class="plain">{}</ul>').format(lines)
