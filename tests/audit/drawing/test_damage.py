"""What must survive although nobody named it: neighbours, and prompts without a concept."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="the diffusion extra is not installed")

from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import seeded
from unweave.audit.drawing.damage import neighbours, plain_prompts, strayed
from unweave.audit.drawing.drawn import Asked, Drawn, draw
from unweave.erase import Concepts


class Flat:
    labels = ("cat", "dog", "church", "bird", "red", "park", "zebra-of-a-name-that-is-too-long")

    def names(self, images):
        return [""] * len(images)

    def features(self, images):
        return images.flatten(1)


def nearest(of, among):
    return torch.tensor([min(float((x - y).norm()) for y in among.flatten(1)) for x in of.flatten(1)])


def test_both_directions_against_a_loop() -> None:
    rng = seeded(0)
    first, again, made = (torch.randn(20, 1, 3, 3, generator=rng, dtype=torch.float64) for _ in range(3))
    made[:7] *= 4
    found = strayed(Flat(), Drawn(images={}, plain=made), Drawn(images={}, plain=first, again=again))
    outside = nearest(made, again) > nearest(first, again).quantile(0.95)
    missing = nearest(again, made) > nearest(again, first).quantile(0.95)
    assert found.outside == (int(outside.sum()), 20)
    assert found.missing == (int(missing.sum()), 20)
    assert found.outside[0] >= 5


def test_the_originals_own_others_stray_in_one_of_twenty() -> None:
    rng = seeded(1)
    first, again = (torch.randn(200, 1, 2, 2, generator=rng) for _ in range(2))
    found = strayed(Flat(), Drawn(images={}, plain=first), Drawn(images={}, plain=first, again=again))
    assert found.outside == found.missing == (10, 200)


def test_what_is_no_number_lies_outside_and_one_image_for_all_leaves_the_rest_missing() -> None:
    rng = seeded(2)
    first, again = (torch.randn(20, 1, 2, 2, generator=rng) for _ in range(2))
    original = Drawn(images={}, plain=first, again=again)
    assert strayed(Flat(), Drawn(images={}, plain=first / 0), original).outside == (20, 20)
    same = strayed(Flat(), Drawn(images={}, plain=again[:1].expand(20, -1, -1, -1)), original)
    assert same.outside[0] == 0
    assert same.missing[0] >= 8
    assert strayed(Flat(), Drawn(images={}), original) is None


@torch.no_grad()
def test_neighbours_are_the_nearest_that_the_judge_knows_and_nobody_named() -> None:
    model = pipeline()

    def vector(word):
        mean = model.encode([f"a photo of a {word}"]).hidden[0].double().mean(0)
        return mean / mean.norm()

    asked = CONCEPTS.only("cat")
    order = sorted(("bird", "red", "park"), key=lambda w: -float(vector("cat") @ vector(w)))
    assert neighbours(model, asked, Flat()) == tuple(order)  # not the one that no prompt holds
    assert neighbours(model, Concepts(erase=("cat",), templates=("a photo of a {}",)), Flat())[0] in (
        "dog", "church", "bird", "red", "park",
    )  # fmt: skip
    assert len(neighbours(model, Concepts(erase=("cat",), templates=("a photo of a {}",)), Flat())) == 3
    judge = Flat()
    judge.labels = ()
    assert neighbours(model, asked, judge) == ()
    assert neighbours(model, asked, None) == ()


def test_prompts_without_a_concept_are_those_that_the_tokenizer_reads() -> None:
    assert plain_prompts(pipeline("pixart"), CONCEPTS) == ("a photo", "a park")
    guided = Concepts(erase=("cat", "dog"), guide={"cat": "bird", "dog": ""}, templates=("a {}",))
    assert plain_prompts(pipeline("pixart"), guided) == ("a bird", "a")


def test_draws_neighbours_earlier_ones_and_both_halves() -> None:
    asked = Asked(concepts=CONCEPTS, neighbours=("bird",), earlier=("red",), plain=("a photo", "a park"))
    found = draw(pipeline(), asked, Flat(), each=2, seed=0, steps=1, guidance=1.0, twice=True, at_once=3)
    assert list(found.images) == ["cat", "golf ball", "dog", "church", "bird", "red"]
    assert list(found.named) == list(found.images)
    assert found.plain.shape == found.again.shape == (4, *found.images["cat"].shape[1:])
    assert not torch.allclose(found.plain, found.again)
    once = draw(pipeline(), asked, Flat(), each=2, seed=0, steps=1, guidance=1.0, at_once=64)
    assert once.again is None
    assert torch.allclose(once.plain, found.plain, atol=1e-5)


def test_synonyms_are_drawn_under_one_name() -> None:
    asked = Concepts.parse("cat|red cat", "dog", templates=("a {}",))
    found = draw(pipeline(), asked, Flat(), each=1, seed=0, steps=1, guidance=1.0)
    assert {c: len(v) for c, v in found.images.items()} == {"cat": 2, "dog": 1}
