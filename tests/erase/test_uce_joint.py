"""UCE where text and picture attend to each other: the two layers that all of a prompt goes through."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import seeded
from unweave.erase import UCE, Concepts
from unweave.erase.concepts import remember_
from unweave.errors import InputError

ASKED = replace(CONCEPTS, guide={"cat": "red bird", "golf ball": "table"})
"""A guide of more tokens than its concept, and one of fewer."""
ENTRANCES = {"sd3": ("context_embedder", "time_text_embed.text_embedder.linear_1")}
ENTRANCES["flux"] = ENTRANCES["sd3"]
SPANS = {"sd3": ((0, 0, 12), (2, 12, 12)), "flux": ((1, 0, 12),)}


@torch.no_grad()
def naive(model, asked: Concepts, weight: Tensor, kind: str, tokens: str, *, pooled: bool) -> Tensor:
    """Eq. 7 term by term in float64, with s_e = 2, s_p = 0.7 and lambda = 0.5."""
    w = weight.double()
    left, right = torch.zeros_like(w), torch.zeros(2 * w.shape[1:], dtype=torch.float64)
    prompts = [
        (*pair, concept, asked.guide_of(concept))
        for concept in asked.erase
        for pair in zip(asked.prompts(concept), asked.guide_prompts(concept), strict=True)
    ]
    kept = [(p, p, concept, concept) for concept in asked.preserve for p in asked.prompts(concept)]
    counted = 0
    for scale, pairs in ((2.0, prompts), (0.7, kept)):
        for old, new, concept, guide in pairs:
            texts = model.encode([old]), model.encode([new])
            if pooled:
                vectors = [[t.pooled[0].double() for t in texts]]
            else:
                c, g = (t.hidden[0].double() for t in texts)
                vectors = []
                for encoder, first, length in SPANS[kind]:
                    where = model.positions(old, concept, encoder)
                    wide = len(model.positions(new, guide, encoder))
                    for k in {"all": range(length), "concept": where, "last": where[-1:]}[tokens]:
                        at = k
                        if k in where:
                            at = where[0] + min(k - where[0], wide - 1)
                        elif k > where[-1]:
                            at = min(k - len(where) + wide, length - 1)
                        vectors.append([c[first + k], g[first + at]])
            for c, g in vectors:
                left, right = left + scale * torch.outer(w @ g, c), right + scale * torch.outer(c, c)
            counted += len(vectors) if scale == 2.0 else 0
    pull = 0.5 * counted / len(prompts)
    return (left + pull * w) @ (right + pull * torch.eye(w.shape[1], dtype=torch.float64)).inverse()


@pytest.mark.parametrize(
    ("kind", "tokens"), [("sd3", "all"), ("flux", "all"), ("sd3", "last"), ("flux", "concept")]
)
def test_is_equation_7_at_both_entrances(kind, tokens) -> None:
    model = pipeline(kind)
    edited = UCE(erase_scale=2.0, preserve_scale=0.7, tokens=tokens).apply(model, ASKED, rng=seeded(0))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, edited.get_parameter(n))}
    assert moved == {f"denoiser.{name}.weight" for name in ENTRANCES[kind]}
    for name in ENTRANCES[kind]:
        layer = model.denoiser.get_submodule(name)
        expected = naive(model, ASKED, layer.weight.detach(), kind, tokens, pooled="linear" in name)
        assert torch.allclose(edited.denoiser.get_submodule(name).weight.double(), expected, atol=1e-5)
        assert float((expected - layer.weight.detach()).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_with_little_pull_a_concept_is_drawn_as_its_guide(kind) -> None:
    """Nothing else of a prompt reaches the blocks: what both entrances map alike is drawn alike."""
    model = pipeline(kind).double()
    asked = Concepts(erase=("cat",), guide="dog", templates=("a {}",))
    edited = UCE(strength=1e-12, neighbours=0).apply(model, asked, rng=seeded(0))
    noise = model.noise(1, seeded(1))

    def picture(pipe, words: str) -> Tensor:
        return pipe.sample([f"a {words}"], steps=2, guidance=1.0, noise=noise, decode=False)

    cat, dog = picture(model, "cat"), picture(model, "dog")
    assert float((picture(edited, "cat") - dog).norm()) < 1e-4 * float((cat - dog).norm())


def test_an_earlier_concept_stays_with_its_guide_and_a_guide_like_its_concept_is_refused() -> None:
    model = pipeline("flux")
    first = Concepts(erase=("bird",), guide="road", templates=("a {}",))
    changes = UCE().changes(model, ASKED)
    remember_(model, first, "UCE")
    for kind, change in UCE().changes(model, ASKED).items():
        assert not torch.allclose(change, changes[kind], atol=1e-4)
    with torch.no_grad():
        for encoder in model.encoders:
            encoder.get_input_embeddings().weight.zero_()
    with pytest.raises(InputError, match="nothing would change"):
        UCE().apply(model, replace(ASKED, erase=("cat",), guide="road"), rng=seeded(0))
