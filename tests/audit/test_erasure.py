"""The audit of concept erasure: verdicts that can fail, exact distances, a page that shows the images."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.audit import cases
from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import seeded
from unweave.audit.drawing.compared import Tried
from unweave.audit.drawing.drawn import Drawn, changed_share, draw, in_turn
from unweave.audit.drawing.figures import frechet
from unweave.audit.drawing.run import audit_erasure
from unweave.erase import SFD, UCE, Concepts
from unweave.errors import InputError
from unweave.report.audits import from_json, render_html, render_markdown, to_json
from unweave.types import Measurement

ASKED = Concepts(erase=("cat",), preserve=("dog", "church"))


class Eye:
    """Reads a concept off the brightness of an image."""

    WORDS = ("cat", "dog", "church", "")

    def names(self, images: Tensor) -> list[str]:
        return [self.WORDS[int(v)] for v in images.mean((1, 2, 3)).round().tolist()]

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def drawn(cat: float, dog: float = 1.0, church: float = 1.0, n: int = 60) -> Drawn:
    """A pipeline that draws each concept in this share of its images, and nothing known otherwise."""
    rng = seeded(0)
    images = {}
    for k, (concept, share) in enumerate((("cat", cat), ("dog", dog), ("church", church))):
        values = torch.full((n, 1, 4, 4), 3.0)
        values[: round(share * n)] = float(k)
        images[concept] = values + 0.1 * torch.randn(values.shape, generator=rng)
    return Drawn(images=images, named={c: Eye().names(v) for c, v in images.items()})


def judged(
    edited: Drawn, original: Drawn | None = None, oracles: tuple[Drawn, ...] = (), judge: object = None
):
    return audit_erasure(
        ASKED, edited, original or drawn(1.0), oracles, judge=judge or Eye(), changed=0.1, seconds=1.0
    )  # fmt: skip


@pytest.mark.parametrize(
    ("edited", "verdict"),
    [
        (drawn(0.0), "erased"),
        (drawn(1.0), "not erased"),
        (drawn(0.5), "not erased"),
        (drawn(0.0, dog=0.5), "damaged"),
        (drawn(0.0, n=4), "inconclusive"),
        (drawn(1.0, dog=0.5), "not erased"),
    ],
)
def test_verdicts(edited: Drawn, verdict: str) -> None:
    assert judged(edited).verdict.outcome == verdict
    assert judged(edited, oracles=(drawn(0.0), drawn(0.05))).verdict.outcome == verdict


def test_what_attacks_bring_back_is_read_by_the_verdict() -> None:
    tried = Tried(name="soft-vector", edited={"cat": (10, 10)}, control={"cat": (0, 10)}, never={})
    shown = Measurement(name="attack success: x", value=0.0, unit="%", direction="", n=10)
    settings = {"judge": Eye(), "changed": 0.1, "seconds": 1.0, "attacks": (shown,)}
    found = audit_erasure(ASKED, drawn(0.0), drawn(1.0), tried=[tried], **settings)
    assert found.verdict.outcome == "not erased"
    assert "hidden, not gone" in found.verdict.reason
    assert shown in found.measurements
    assert audit_erasure(ASKED, drawn(0.0), drawn(1.0), **settings).verdict.outcome == "erased"


def rate(name: str, percent: float, retrained: float | None = None) -> Measurement:
    return Measurement(
        name=f"attack success: {name}", value=percent, unit="%", direction="", n=50, oracle_mean=retrained
    )


@pytest.mark.parametrize(
    ("attacks", "outcome"),
    [
        ([rate("unlearn-diff-atk", 100), rate("as many random tokens", 0)], "not erased"),
        ([rate("unlearn-diff-atk", 100), rate("as many random tokens", 100)], "inconclusive"),
        ([rate("unlearn-diff-atk", 100)], "inconclusive"),
        ([rate("unlearn-diff-atk", 100, retrained=0)], "not erased"),
        ([rate("unlearn-diff-atk", 100, retrained=100)], "erased"),
        ([rate("soft-vector", 100), rate("a random vector", 0), rate("as many random tokens", 100)], "not erased"),
        ([rate("unlearn-diff-atk", 0), rate("as many random tokens", 100)], "erased"),
    ],
)  # fmt: skip
def test_success_rates_alone_count(attacks: list[Measurement], outcome: str) -> None:
    settings = {"judge": Eye(), "changed": 0.1, "seconds": 1.0, "attacks": attacks}
    verdict = audit_erasure(ASKED, drawn(0.0), drawn(1.0), **settings).verdict
    assert verdict.outcome == outcome
    assert [c.name for c in verdict.checks] == [f"attack {attacks[0].name.removeprefix('attack success: ')}"]


def test_former_calls_are_understood() -> None:
    settings = {"judge": Eye(), "changed": 0.1, "seconds": 1.0}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = audit_erasure(
            concepts=ASKED, edited=drawn(1.0), original=drawn(1.0), rng=seeded(0), **settings
        )
        assert found.verdict == "not erased"
        assert found.verdict != "erased"
        assert found.reason == found.verdict.reason
        assert found.concepts == found.rows("concepts")
    assert [str(w.message) for w in told] == [
        "audit_erasure: concepts is called asked now",
        "audit_erasure: rng is passed over now: nothing is drawn at random",
        *["a verdict has more than a word now: compare its outcome"] * 2,
        "Audit.reason is Audit.verdict.reason now",
        'Audit.concepts is Audit.rows("concepts") now',
    ]
    assert found.verdict == replace(found.verdict)
    assert found.verdict != replace(found.verdict, reason="another")
    with pytest.raises(AttributeError, match="'Audit' object has no attribute 'nonsense'"):
        _ = found.nonsense


def test_an_edit_is_measured_by_the_retrained() -> None:
    # where pipelines that never saw a cat draw something the judge calls one, so may the edited
    edited, oracle = drawn(0.25), drawn(0.25)
    assert judged(edited).verdict.outcome == "not erased"
    assert judged(edited, oracles=(oracle,)).verdict.outcome == "erased"


def test_what_retrained_pipelines_lost_too_is_no_damage() -> None:
    edited = drawn(0.0, dog=0.5)
    assert judged(edited, oracles=(drawn(0.0), drawn(0.0))).verdict.outcome == "damaged"
    assert judged(edited, oracles=(drawn(0.0), drawn(0.0, dog=0.5))).verdict.outcome == "erased"


def test_quality_is_that_of_the_kept_concepts() -> None:
    name = "Fréchet distance to the original's images"
    found = next(m for m in judged(drawn(0.0)).measurements if m.name == name)
    assert found.value == pytest.approx(0.0, abs=1e-6)  # only the cats differ
    assert found.original is None
    real = 2 + torch.randn(200, 1, 4, 4, generator=seeded(1))
    settings = {"judge": Eye(), "changed": 0.1, "seconds": 1.0, "real": real}
    edited, original = drawn(0.0, dog=0.5), drawn(1.0)
    measured = audit_erasure(ASKED, edited, original, (), **settings).measurements
    found = next(m for m in measured if m.name == "Fréchet distance to real images")

    def far(images: Drawn) -> float:
        kept = torch.cat([images.images["dog"], images.images["church"]])
        return frechet(Eye().features(kept), Eye().features(real))

    assert (found.value, found.original) == pytest.approx((far(edited), far(original)))


def test_controls_can_fail() -> None:
    blind = judged(drawn(0.0), original=drawn(0.2))
    assert blind.verdict.outcome == "inconclusive"
    assert blind.controls[0].passed is False
    useless = judged(drawn(0.0), oracles=(drawn(0.95),))
    assert useless.verdict.outcome == "inconclusive"
    assert "retrained pipelines, images in which" in useless.verdict.reason


def test_without_a_judge_nothing_is_concluded() -> None:
    images = Drawn(images=drawn(0.0).images)
    found = audit_erasure(ASKED, images, images, judge=None, changed=0.1, seconds=1.0)
    assert found.verdict.outcome == "inconclusive"
    assert found.verdict.next_step == "Give --judge."
    assert [m.name for m in found.measurements] == [
        "weights changed",
        "time of the edit",
        "peak memory of the edit",
    ]


def test_figures_have_units_intervals_and_references() -> None:
    found = {m.name: m for m in judged(drawn(0.2, dog=0.9), oracles=(drawn(0.0), drawn(0.1))).measurements}
    gone = found["erased concepts drawn"]
    assert (gone.value, gone.unit, gone.n, gone.original) == (20.0, "%", 60, 100.0)
    assert gone.interval is not None
    assert gone.interval[0] < 20 < gone.interval[1]
    assert gone.oracle_mean == pytest.approx(5.0)
    assert gone.oracle_spread == pytest.approx(math.sqrt(50))
    p, f = 95.0, 20.0
    assert found["overall score"].value == pytest.approx(2 * p * (100 - f) / (p + 100 - f))
    assert found["weights changed"].value == 10.0


def test_the_frechet_distance_is_exact_for_gaussians_of_known_moments() -> None:
    rng = seeded(0)
    a = torch.randn(4000, 3, generator=rng, dtype=torch.float64)
    scale, shift = (
        torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64),
        torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64),
    )
    # the same draws, scaled and shifted: commuting covariances, so the distance is sum (s - 1)^2 + |shift|^2
    whitened = (a - a.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(a.T.cov())).T
    assert frechet(whitened, whitened * scale + shift) == pytest.approx(1 + 0 + 0.25 + 5, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="at least two images"):
        frechet(a[:1], a)


def test_draws_the_same_noise_for_every_pipeline() -> None:
    model = pipeline()
    one, two = (draw(model, CONCEPTS, None, each=1, seed=3, steps=2, guidance=2.0) for _ in range(2))
    other = draw(model, CONCEPTS, None, each=1, seed=4, steps=2, guidance=2.0)
    assert all(torch.equal(one.images[c], two.images[c]) for c in one.images)
    assert not torch.equal(one.images["cat"], other.images["cat"])
    assert set(one.images) == {*CONCEPTS.erase, *CONCEPTS.preserve}


def test_counts_the_weights_that_changed() -> None:
    model = pipeline()
    edited = model.editable()
    layer = next(iter(edited.linears("cross_kv").values()))
    with torch.no_grad():
        layer.weight[0, :3] += 1
    total = sum(p.numel() for p in model.parameters())
    assert changed_share(edited, model) == pytest.approx(3 / total)


def test_erases_one_after_the_other_from_what_is_left() -> None:
    model = pipeline()
    seen: list[tuple[str, ...]] = []

    def edit(m, c):
        seen.append(c.erase)
        return UCE().apply(m, c, rng=seeded(0))

    steps = in_turn(edit, model, CONCEPTS)
    assert seen == [("cat",), ("golf ball",)]
    assert [c for c, _ in steps] == ["cat", "golf ball"]
    assert changed_share(steps[1][1], steps[0][1]) > 0


def images(*groups: tuple[str, Drawn]) -> dict[str, dict[str, Tensor]]:
    return {name: dict(d.images) for name, d in groups}


def test_the_page_the_json_and_the_markdown() -> None:
    first = audit_erasure(
        ASKED, drawn(0.1), drawn(1.0), (drawn(0.0),), judge=Eye(), changed=0.1, seconds=1.0, turns={"cat": {"cat": 7.0}},
    )  # fmt: skip
    audits = (first, judged(drawn(1.0)))
    assert from_json(to_json(audits)) == audits
    assert [a.passed for a in audits] == [first.verdict.outcome == "erased", False]
    assert first.rows("concepts")["cat"] == {"original": 100.0, "edited": 10.0, "oracle": 0.0}
    run = {"request": "Erase <cat>", "seed": 0}
    page = render_html(audits, run, drawn=images(("before", drawn(1.0)), ("after", drawn(0.1))))
    assert page.count("data:image/png;base64,") == 6
    assert "Erase &lt;cat&gt;" in page
    for wanted in (
        "What it draws",
        "Concept by concept",
        "One after the other",
        "Erasure audit",
        "after cat",
    ):
        assert wanted in page
    assert f'<section class="verdict {first.verdict.outcome.replace(" ", "-")}"' in page
    assert "http" not in page.replace("http-equiv", "")
    text = render_markdown(audits, run)
    assert text.startswith(f"# {first.word.symbol} {first.verdict.outcome.capitalize()}\n")
    assert "| erased concepts drawn | 10.0 %" in text


def test_a_report_is_about_one_kind_of_model() -> None:
    for render in (render_html, render_markdown):
        with pytest.raises(InputError, match="one kind of model; got audits of classifier and drawing"):
            render([judged(drawn(0.0)), cases.audit()], {})


def test_a_generator_of_one_step_draws_in_one() -> None:
    model, calls = pipeline(), []
    asked = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})
    made = SFD(distil=0, steps=1, batch_size=1).apply(model, asked, rng=seeded(0))
    for drawn_by in (model, made):
        real = drawn_by.sample
        drawn_by.sample = lambda *a, real=real, **k: (
            calls.append((k["steps"], k["guidance"])),
            real(*a, **k),
        )[1]
        draw(drawn_by, asked, None, each=1, seed=0, steps=3, guidance=2.0)
    assert set(calls[:4]) == {(3, 2.0)}
    assert set(calls[4:]) == {(1, 1.0)}


def test_prompts_without_a_concept_are_looked_at_in_all_pipelines() -> None:
    rng = seeded(0)
    plain, again = (torch.randn(40, 1, 4, 4, generator=rng) for _ in range(2))
    original = replace(drawn(1.0), plain=plain, again=again)
    edited, oracle = replace(drawn(0.0), plain=plain), replace(drawn(0.0), plain=plain + 100)
    found = audit_erasure(ASKED, edited, original, (oracle,), judge=Eye(), changed=0.1, seconds=1.0)
    figure = next(m for m in found.measurements if m.name.endswith("images unlike any of the original's"))
    assert (figure.value, figure.original, figure.oracle_mean, figure.n) == (
        5.0,
        pytest.approx(5.0),
        100.0,
        40,
    )
    wreck = audit_erasure(
        ASKED, replace(edited, plain=plain * torch.nan), original, judge=Eye(), changed=0.1, seconds=1.0
    )
    assert wreck.verdict.outcome == "damaged"
    assert wreck.verdict.reason.startswith("40 of 40 images of prompts without a concept")
