from __future__ import annotations

import json

import pytest

from tests.erase.pipelines import CONCEPTS, KINDS, loaded, pipeline
from unweave.erase import Concepts, earlier, prompts_of, templates_of
from unweave.erase.concepts import mentions, remember_
from unweave.erase.templates import KINDS as KINDS_OF_TEMPLATES
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


def test_parses_one_guide_each() -> None:
    by_sign = Concepts.parse("cat=dog, golf ball = red ball ")
    in_order = Concepts.parse("cat, golf ball", guide="dog, red ball")
    assert by_sign == in_order
    assert [by_sign.guide_of(c) for c in by_sign.erase] == ["dog", "red ball"]
    assert [Concepts.parse("cat, church", guide="dog").guide_of(c) for c in ("cat", "church")] == [
        "dog",
        "dog",
    ]
    assert Concepts.parse("cat=dog, church").guide_of("church") == ""
    with pytest.raises(InputError, match=r"2 concepts to erase and 3 guides .'dog, fox, red'"):
        Concepts.parse("cat, bird", guide="dog, fox, red")
    with pytest.raises(InputError, match="guides are given twice"):
        Concepts.parse("cat=dog, bird", guide="fox")


def test_synonyms_share_a_label_and_a_guide() -> None:
    asked = Concepts.parse("golf ball|golfball|ball=stone, church=house", templates=("a {}",))
    assert asked.erase == ("golf ball", "golfball", "ball", "church")
    assert asked.labels == ("golf ball", "church")
    assert asked.words("golf ball") == ("golf ball", "golfball", "ball")
    assert [asked.guide_of(w) for w in asked.erase] == ["stone", "stone", "stone", "house"]
    assert (asked.label_of("ball"), asked.label_of("church"), asked.label_of("dog")) == (
        "golf ball",
        "church",
        "dog",
    )
    assert asked.only("church").synonyms == {}
    assert asked.only("golf ball", "ball").synonyms == {"ball": "golf ball"}
    for synonyms in ({"ball": "golf"}, {"dog": "ball"}, {"ball": "golf ball", "golf ball": "ball"}):
        with pytest.raises(InputError, match="is another name of"):
            Concepts(erase=("golf ball", "ball"), synonyms=synonyms)


def test_templates_by_a_word_or_from_a_file(tmp_path) -> None:
    for kind in KINDS_OF_TEMPLATES:
        templates, bases = templates_of(kind)
        asked = Concepts(erase=("cat",), templates=templates, bases=bases)
        assert len(asked.base_prompts("cat")) == len(asked.prompts("cat"))
        assert not any("cat" in p for p in asked.base_prompts("cat"))
    file = tmp_path / "prompts.txt"
    file.write_text("a {} in snow\tsnow\n\nby {}\tby nobody\n")
    assert templates_of(str(file)) == (("a {} in snow", "by {}"), ("snow", "by nobody"))
    file.write_text("a {} in snow\nby {}\n")
    assert templates_of(str(file)) == (("a {} in snow", "by {}"), ())
    file.write_text("a {} in snow\tsnow\nby {}\n")
    with pytest.raises(InputError, match="a prompt a line"):
        templates_of(str(file))
    with pytest.raises(InputError, match="object, style, attribute, person, explicit or a file"):
        templates_of("objects")


def test_a_map_is_the_guides_by_name() -> None:
    mapped = "Van  gogh=painting, church = house"
    assert Concepts.parse("", mapped=mapped) == Concepts.parse("Van  gogh=painting, church=house")
    asked = Concepts.parse("church, Van Gogh|Vincent, cat", mapped=mapped)
    guides = {c: asked.guide_of(c) for c in asked.erase}
    assert guides == {"church": "house", "Van Gogh": "painting", "Vincent": "painting", "cat": ""}
    for erase, guide, given, message in (
        ("cat", "dog", "cat=fox", "given twice: as 'dog' and as the map 'cat=fox'"),
        ("cat=dog", "", "cat=fox", "given twice: as 'cat=dog'"),
        ("cat", "", "dog=fox", "names 'dog', which is not erased. Erased are cat"),
        ("cat", "", "cat", "a concept and its guide"),
        ("", "", "=fox", "a concept and its guide"),
        ("cat", "", "cat=fox, Cat=dog", "more than once"),
    ):
        with pytest.raises(InputError, match=message):
            Concepts.parse(erase, guide=guide, mapped=given)


def test_prompts_of_ones_own_become_templates(tmp_path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(
        "Starry sky by van  gogh, oil\n\na golf ball, in snow\na ball in snow\nStarry sky by Van Gogh, oil\n"
    )
    concepts = ("ball", "golf ball", "Van Gogh")
    assert prompts_of(file, concepts) == ("Starry sky by {}, oil", "a {}, in snow", "a {} in snow")
    for text, message in (
        ("a ball\na park\n", "'a park' in .* names none of the concepts"),
        ("a balloon\n", "names none"),
        ("a ball beside a ball\n", "must name one concept, once"),
        ("a ball by Van Gogh\n", "must name one concept, once"),
        ("a {} by Van Gogh\n", "go to --templates"),
        ("\n", "holds no prompt"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            prompts_of(file, concepts)
    with pytest.raises(InputError, match="there is no file"):
        prompts_of(tmp_path / "absent", concepts)


def test_remembers_what_was_erased_request_by_request() -> None:
    model = pipeline()
    first = Concepts(erase=("cat", "bird"), preserve=("dog",), guide={"cat": "park"}, templates=("a {}",))
    remember_(model, first, "UCE")
    remember_(model, Concepts.parse("church|red church"), "ESD")
    assert [e["method"] for e in model.erased] == ["UCE", "ESD"]
    assert json.loads(json.dumps(model.erased)) == list(model.erased)
    past, then = earlier(model)
    assert (past.erase, past.preserve, past.guide_of("cat"), past.templates) == (
        ("cat", "bird"),
        (),
        "park",
        ("a {}",),
    )
    assert then.labels == ("church",)
    again = earlier(model, Concepts(erase=("Cat", "church", "red church")))
    assert [p.erase for p in again] == [("bird",)]
    assert model.editable().erased == model.erased
    model.erased = ({"method": "UCE"},)
    with pytest.raises(InputError, match="record of what was erased"):
        earlier(model)


def test_what_was_erased_before_can_be_neither_kept_nor_led_to() -> None:
    model = pipeline()
    remember_(model, Concepts(erase=("bird",)), "UCE")
    with pytest.raises(InputError, match=r"'Bird' was erased .* it cannot be preserved"):
        Concepts(erase=("cat",), preserve=("Bird",)).require_seen(model)
    with pytest.raises(InputError, match=r"'bird' was erased .* cannot be what others are turned into"):
        Concepts(erase=("cat",), guide="bird").require_seen(model)
    Concepts(erase=("bird",), preserve=("dog",)).require_seen(model)


def test_a_guide_that_was_erased_later_hands_on_to_its_own() -> None:
    model = pipeline()
    remember_(model, Concepts(erase=("cat", "church"), guide={"cat": "dog", "church": "park"}), "UCE")
    remember_(model, Concepts(erase=("dog",), guide="bird"), "UCE")
    assert [[p.guide_of(c) for c in p.erase] for p in earlier(model)] == [["bird", "park"], ["bird"]]
    now = Concepts(erase=("bird",), guide="road")
    assert [[p.guide_of(c) for c in p.erase] for p in earlier(model, now)] == [["road", "park"], ["road"]]
