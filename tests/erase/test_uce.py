from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.erase.pipelines import CONCEPTS, KINDS, pipeline
from tests.zoo_diffusers import WORDS
from unweave import seeded
from unweave.erase import UCE, Concepts, nearest_words
from unweave.erase.concepts import remember_
from unweave.errors import InputError
from unweave.models.text_to_image.entrances import cross_inputs

ASKED = replace(CONCEPTS, guide={"cat": "bird", "golf ball": "table"})


@torch.no_grad()
def naive(
    model, asked: Concepts, weight: torch.Tensor, s_e=1.0, s_p=1.0, strength=0.5, tokens="all"
) -> torch.Tensor:
    """Eq. 7 term by term in float64; the pull to the old weights grows with the tokens of a prompt that are edited."""
    w = weight.double()
    left, right = torch.zeros_like(w), torch.zeros(2 * w.shape[1:], dtype=torch.float64)
    counted = prompts = 0

    def read(prompt):
        text = model.encode([prompt])
        return cross_inputs(model, text)[0].detach().double(), text.mask

    for concept in asked.erase:
        for old, new in zip(asked.prompts(concept), asked.guide_prompts(concept), strict=True):
            (c, mask), (g, _) = read(old), read(new)
            where = model.positions(old, concept)
            width = len(model.positions(new, asked.guide_of(concept)))
            prompts += 1
            for k in {"all": range(len(c)), "concept": where, "last": where[-1:]}[tokens]:
                if mask is not None and not mask[0, k]:
                    continue
                at = k
                if k in where:
                    at = where[0] + min(k - where[0], width - 1)
                elif k > where[-1]:
                    at = min(k - len(where) + width, len(c) - 1)
                left = left + s_e * torch.outer(w @ g[at], c[k])
                right = right + s_e * torch.outer(c[k], c[k])
                counted += 1
    for concept in asked.preserve:
        for prompt in asked.prompts(concept):
            p, mask = read(prompt)
            where = model.positions(prompt, concept)
            for k in {"all": range(len(p)), "concept": where, "last": where[-1:]}[tokens]:
                if mask is None or mask[0, k]:
                    left = left + s_p * torch.outer(w @ p[k], p[k])
                    right = right + s_p * torch.outer(p[k], p[k])
    pull = strength * counted / prompts
    return (left + pull * w) @ (right + pull * torch.eye(w.shape[1], dtype=torch.float64)).inverse()


LONG = replace(CONCEPTS, guide={"cat": "red bird", "golf ball": "table"})
"""A guide of more tokens than its concept, and one of fewer."""


@pytest.mark.parametrize(
    ("kind", "tokens", "asked"),
    [*((kind, "all", ASKED) for kind in KINDS), ("pixart", "concept", LONG), ("sd", "last", LONG), ("pixart", "all", LONG)],
)  # fmt: skip
def test_is_equation_7(kind, tokens, asked) -> None:
    model = pipeline(kind)
    edited = UCE(erase_scale=2.0, preserve_scale=0.7, tokens=tokens).apply(model, asked, rng=seeded(0))
    for name, layer in model.linears("cross_kv").items():
        expected = naive(model, asked, layer.weight.detach(), 2.0, 0.7, tokens=tokens)
        assert torch.allclose(edited.denoiser.get_submodule(name).weight.double(), expected, atol=1e-5)
        assert float((expected - layer.weight.detach()).abs().max()) > 1e-3


@torch.no_grad()
def test_keys_of_the_concept_become_those_of_the_guide() -> None:
    model = pipeline("pixart")
    asked = Concepts(erase=("cat",), guide="dog", preserve=("church",), templates=("a {}",))
    edited = UCE(strength=1e-3).apply(model, asked, rng=seeded(0))
    text = {w: cross_inputs(model, model.encode([f"a {w}"]))[0, 1] for w in ("cat", "dog", "church")}
    for name, layer in model.linears("cross_kv").items():
        after = edited.denoiser.get_submodule(name)
        gap = (after(text["cat"]) - layer(text["dog"])).norm() / (
            layer(text["cat"]) - layer(text["dog"])
        ).norm()
        kept = (after(text["church"]) - layer(text["church"])).norm() / layer(text["church"]).norm()
        assert float(gap) < 0.05
        assert float(kept) < 0.05


def test_a_strong_pull_leaves_the_weights() -> None:
    model = pipeline()
    edited = UCE(strength=1e9).apply(model, ASKED, rng=seeded(0))
    for name, layer in model.linears("cross_kv").items():
        assert torch.allclose(edited.denoiser.get_submodule(name).weight, layer.weight, atol=1e-6)


def test_only_keys_and_values_move() -> None:
    model = pipeline("sdxl")
    edited = UCE().apply(model, ASKED, rng=seeded(0))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, edited.get_parameter(n))}
    assert moved == {f"denoiser.{n}.weight" for n in model.linears("cross_kv")}


@pytest.mark.parametrize("tokens", ["all", "concept", "last"])
def test_an_empty_guide_and_one_of_more_tokens(tokens) -> None:
    model = pipeline()
    for guide in ("", "golf ball park"):
        change = UCE(tokens=tokens).change(model, Concepts(erase=("cat",), guide=guide))
        assert torch.isfinite(change).all()
        assert float(change.abs().max()) > 1e-3


def test_refuses() -> None:
    with pytest.raises(InputError, match="rng must be a torch.Generator"):
        UCE().apply(pipeline(), ASKED, rng=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="preserve_scale must be at least 0"):
        UCE(preserve_scale=-1)
    with pytest.raises(InputError, match="strength must be above 0.*no solution"):
        UCE(strength=0)
    with pytest.raises(InputError, match="erase_scale must be above 0"):
        UCE(erase_scale=0)
    model = pipeline()
    with torch.no_grad():
        model.text_encoder.get_input_embeddings().weight.zero_()
    with pytest.raises(InputError, match="nothing would change"):
        UCE().apply(model, ASKED.only("cat"), rng=seeded(0))


def test_the_last_tokens_are_the_authors_closed_form() -> None:
    model, how = pipeline(), UCE(tokens="last", strength=0.3)
    asked = Concepts(
        erase=("cat",),
        guide="bird",
        preserve=("dog", "golf ball"),
        templates=("a photo of a {}",),
        bases=("a photo",),
    )
    edited = how.apply(model, asked, rng=seeded(0))

    @torch.no_grad()
    def last(word):
        prompt = f"a photo of a {word}"
        return model.encode([prompt]).hidden[0, model.positions(prompt, word)[-1]].double()

    c, g = last("cat"), last("bird")
    kept = torch.stack([last("dog"), last("golf ball")])
    for name, layer in model.linears("cross_kv").items():
        w = layer.weight.detach().double()
        right = 0.3 * torch.eye(len(c), dtype=torch.float64) + torch.outer(c, c) + kept.T @ kept
        left = 0.3 * w + torch.outer(w @ g, c) + w @ kept.T @ kept
        assert torch.allclose(
            edited.denoiser.get_submodule(name).weight.double(), left @ right.inverse(), atol=1e-5
        )


def test_what_was_erased_earlier_stays_in_the_equations() -> None:
    model = pipeline()
    first = Concepts(erase=("red",), guide="park", templates=("a {} at sunset",), bases=("a sunset",))
    once = UCE().apply(model, first, rng=seeded(0))
    assert [e["method"] for e in once.erased] == ["UCE"]
    assert model.erased == ()
    twice = UCE().apply(once, ASKED, rng=seeded(0))
    assert len(twice.erased) == 2
    for name, layer in once.linears("cross_kv").items():
        w = layer.weight.detach().double()
        pull = 0.5 * 12  # every prompt has 12 tokens
        left, right = pull * w, pull * torch.eye(w.shape[1], dtype=torch.float64)
        for asked in (ASKED, first):
            for concept in asked.erase:
                for old, new in zip(asked.prompts(concept), asked.guide_prompts(concept), strict=True):
                    c, g = (model.encode([p]).hidden[0].detach().double() for p in (old, new))
                    where = model.positions(old, concept)
                    extra = int(model.tokens([new])[1].sum() - model.tokens([old])[1].sum())
                    for k in range(len(c)):
                        inside = where[0] + min(k - where[0], len(where) + extra - 1)
                        at = k if k < where[0] else inside if k in where else min(k + extra, len(c) - 1)
                        left = left + torch.outer(w @ g[at], c[k])
                        right = right + torch.outer(c[k], c[k])
        for prompt in ASKED.prompts(*ASKED.preserve):
            p = model.encode([prompt]).hidden[0].detach().double()
            left, right = left + w @ p.T @ p, right + p.T @ p
        assert torch.allclose(
            twice.denoiser.get_submodule(name).weight.double(), left @ right.inverse(), atol=1e-5
        )
    forgetful = once.editable()
    forgetful.erased = ()
    assert not torch.allclose(UCE().change(once, ASKED), UCE().change(forgetful, ASKED), atol=1e-4)
    remember_(forgetful, ASKED, "UCE")  # erased again: the new request speaks for it
    forgetful.erased = forgetful.erased[-1:]
    assert torch.allclose(UCE().change(forgetful, ASKED), UCE().change(model, ASKED), atol=1e-12)


def test_where_nothing_is_preserved_the_nearest_words_are() -> None:
    model, bare = pipeline(), replace(ASKED, preserve=())
    how = UCE(neighbours=3)
    words = nearest_words(model, bare, 3)
    assert 3 <= len(words) <= 6  # three a concept
    assert not {"cat", "golf", "ball", "photo", "park", "the"} & set(
        words
    )  # erased, or part of the templates
    edited = how.apply(model, bare, rng=seeded(0))
    assert edited.erased[-1]["neighbours"] == list(words)
    named = how.apply(model, replace(bare, preserve=words), rng=seeded(0))
    alone = UCE(neighbours=0).apply(model, bare, rng=seeded(0))
    assert "neighbours" not in named.erased[-1] | alone.erased[-1]
    for name, weight in edited.named_parameters():
        assert weight.equal(named.get_parameter(name))
    assert any(not weight.equal(alone.get_parameter(name)) for name, weight in edited.named_parameters())
    free = UCE(preserve_scale=0.0).apply(model, bare, rng=seeded(0))
    assert all(weight.equal(alone.get_parameter(name)) for name, weight in free.named_parameters())


@torch.no_grad()
def test_the_nearest_words_are_chosen_by_a_loop_over_the_vocabulary() -> None:
    model, asked = pipeline("pixart"), ASKED.only("cat")
    rows = {"cat": model.tokenizers[0]("cat", add_special_tokens=False).input_ids[0]}
    table = model.text_encoder.get_input_embeddings().weight.double()

    def near(word):
        prompts = [f"a photo of a {w}" for w in (word, "cat")]
        one, other = (v.double().mean(0) for v in model.encode(prompts).hidden)
        return float(one @ other / one.norm() / other.norm())

    free = [w for w in WORDS if len(w) > 2 and w not in ("cat", "photo", "the", "park")]
    table = table / table.norm(dim=1, keepdim=True)
    first = sorted(
        free, key=lambda w: -float(table[model.tokenizers[0](w).input_ids[0]] @ table[rows["cat"]])
    )
    assert nearest_words(model, asked, 1) == (max(first[:6], key=near),)
    assert nearest_words(model, asked, 40) == tuple(sorted(free, key=near, reverse=True))
    assert nearest_words(model, asked, 0) == ()
