from __future__ import annotations

import pytest

from tests.erase.pipelines import CONCEPTS, KINDS, loaded, pipeline
from unweave.erase import Concepts
from unweave.erase.concepts import mentions
from unweave.errors import InputError


def test_prompts_by_hand() -> None:
    asked = Concepts(erase=("cat",), guide="dog", templates=("a {} in the park", "a photo of a {}"))
    assert asked.prompts("cat") == ["a cat in the park", "a photo of a cat"]
    assert (
        asked.guide_prompts("cat") == asked.base_prompts("cat") == ["a dog in the park", "a photo of a dog"]
    )
    assert Concepts(erase=("cat",), templates=("a {} bird",)).guide_prompts("cat") == ["a bird"]


def test_prompts_of_several_come_concept_by_concept() -> None:
    asked = Concepts(erase=("cat", "dog"), guide={"dog": "red  bird"}, templates=("a {}", "the {} road"))
    assert asked.prompts(*asked.erase) == ["a cat", "the cat road", "a dog", "the dog road"]
    assert asked.guide_prompts(*asked.erase) == ["a", "the road", "a red bird", "the red bird road"]
    assert asked.prompts() == []


@pytest.mark.parametrize(
    ("phrase", "found"),
    [
        ("a Golf  Ball", True),
        ("golf ball", True),
        ("golf balls", False),
        ("golf red ball", False),
        ("", False),
    ],
)
def test_a_phrase_mentions_whole_words_side_by_side(phrase: str, found: bool) -> None:
    assert mentions(phrase, "golf ball") is found


def test_default_templates_have_a_base_each() -> None:
    asked = Concepts.parse("golf ball, church", "parachute")
    assert asked.erase == ("golf ball", "church")
    assert asked.preserve == ("parachute",)
    assert len(asked.base_prompts("church")) == len(asked.prompts("church"))
    assert not any("church" in p for p in asked.base_prompts("church"))


def test_guides_one_a_concept() -> None:
    asked = Concepts(erase=("cat", "Golf ball"), guide={"cat": "dog", "golf  ball": "ball"})
    assert [asked.guide_of(c) for c in asked.erase] == ["dog", "ball"]
    assert asked.only("cat").guide_of("cat") == "dog"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"erase": ()}, "is empty"),
        ({"erase": ("cat", "")}, "empty concept"),
        ({"erase": ("cat", "Cat ")}, "'cat' more than once"),
        ({"erase": ("cat",), "preserve": ("dog", "dog")}, "'dog' more than once"),
        ({"erase": ("golf ball",), "preserve": ("Golf  Ball",)}, "both erased and preserved"),
        ({"erase": "cat"}, r"Concepts\.parse splits"),
        ({"erase": ("cat", 3)}, r"Concepts\.erase must be a tuple of strings"),
        ({"erase": ("cat",), "templates": ("a photo",)}, "exactly one {}"),
        ({"erase": ("cat",), "templates": ("a {}",), "bases": ("a", "b")}, "one prompt a template"),
        ({"erase": ("cat",), "guide": {"dog": "bird"}}, "are not erased"),
        ({"erase": ("cat", "dog"), "guide": "dog"}, "erased too"),
    ],
)
def test_refuses(settings, message) -> None:
    with pytest.raises(InputError, match=message):
        Concepts(**settings)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_tokenizer_sees(kind) -> None:
    CONCEPTS.require_seen(loaded(kind))
    long = Concepts(
        erase=("cat",), templates=("a photo of a {} in the park at the red church near the blue road",)
    )
    with pytest.raises(InputError, match="Shorten it"):
        long.require_seen(loaded(kind))


def test_a_concept_of_unknown_tokens_alone_is_refused() -> None:
    model = pipeline("pixart")
    with pytest.raises(InputError, match="cannot see 'zeppelin'"):
        Concepts(erase=("zeppelin",), templates=("a {}",)).require_seen(model, "FIA")
    Concepts(erase=("red zeppelin",), templates=("a {}",)).require_seen(model)  # a part is known
