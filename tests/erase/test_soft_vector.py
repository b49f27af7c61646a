"""The attack by a free vector: its loss against a loop, its control, and what it does with several concepts."""

from __future__ import annotations

import pytest
import torch

from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import seeded
from unweave.erase import RandomVector, SoftVector, Targets
from unweave.erase._soft import descend
from unweave.errors import InputError
from unweave.random import child


class Judge:
    """Sees a cat in what is brighter than a threshold, and keeps what it was shown."""

    def __init__(self, above: float) -> None:
        self.above, self.shown = above, []

    def names(self, images):
        self.shown.append(images.clone())
        return ["cat" if x.mean() > self.above else "" for x in images]


def targets(model, concepts=("cat", "cat", "cat")) -> Targets:
    n = len(concepts)
    images = torch.randn(n, 3, 16, 16, generator=seeded(1)).clamp(-1, 1)
    prompts = tuple(f"a photo of a {c}" for c in concepts)
    return Targets(
        prompts=prompts, concepts=concepts, images=images, noise=model.noise(n, seeded(2)), steps=2, guidance=2.0
    )  # fmt: skip


def test_descends_by_adam_and_stops_at_what_is_no_number() -> None:
    start = torch.tensor([[[1.0, -2.0]]])
    found = descend(start, lambda v: (v[..., i].square() for i in range(2)), steps=3, lr=0.1)
    expected = start.clone().requires_grad_()
    adam = torch.optim.Adam([expected], lr=0.1)
    for _ in range(3):
        adam.zero_grad()
        expected.square().sum().backward()
        adam.step()
    assert torch.allclose(found, expected.detach())
    assert torch.equal(start, torch.tensor([[[1.0, -2.0]]]))
    calls = []

    def breaks(v):
        calls.append(v.detach().clone())
        return [v.sum() if len(calls) < 3 else v.sum() * torch.nan]

    assert torch.equal(descend(start, breaks, steps=9, lr=0.1), calls[2])
    assert len(calls) == 3


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_the_vector_is_that_of_a_loop(at_once) -> None:
    model, how = pipeline(), SoftVector(steps=3, lr=0.1, batch_size=2, at_once=at_once)
    aim, judge = targets(model), Judge(1e9)
    how.attack(model, aim, judge, rng=seeded(0))
    drawn = judge.shown[1]

    own = child(seeded(0))
    table = model.text_encoder.get_input_embeddings().weight.detach()
    tokenizer = model.tokenizers[0]
    text = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    vector = table[text].mean(0).clone().requires_grad_()
    adam = torch.optim.Adam([vector], lr=0.1)
    ids, mask = model.tokens(aim.prompts)
    ids = torch.cat([ids[:, :1], torch.full((3, 1), text[0]), ids[:, 1:-1]], 1)
    mask = torch.cat([mask[:, :1], torch.ones(3, 1, dtype=torch.long), mask[:, 1:-1]], 1)

    def encode(rows):
        around = table[ids[rows]]
        read = torch.cat([around[:, :1], vector.expand(len(rows), 1, -1), around[:, 2:]], 1)
        return model.encode_tokens((ids[rows], mask[rows]), embeddings=read)

    latents = model.latents(aim.images)
    for _ in range(3):
        at = torch.randint(3, (2,), generator=own)
        t = torch.randint(model.timesteps, (2,), generator=own)
        noise = model.noise(2, own)
        a = model.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        x = a.sqrt() * latents[at] + (1 - a).sqrt() * noise
        (vector.grad,) = torch.autograd.grad((model(x, t, encode(at)) - noise).square().mean(), vector)
        adam.step()
    with torch.no_grad():
        expected = model.sample(encode(torch.arange(3)), steps=2, guidance=2.0, noise=aim.noise)
    assert torch.allclose(drawn, expected, atol=1e-4)
    assert float((drawn - judge.shown[0]).abs().max()) > 1e-3


def test_success_is_the_judges_word_and_prompts_that_draw_alone_are_left() -> None:
    model = pipeline()
    aim = targets(model)
    alone = model.sample(aim.prompts, steps=2, guidance=2.0, noise=aim.noise).mean((1, 2, 3))
    judge = Judge(float(alone.sort().values[1]))  # one of three draws it alone
    found = SoftVector(steps=1).attack(model, aim, judge, rng=seeded(0))
    assert [a.before for a in found.attempts] == (alone > judge.above).tolist()
    assert [a.judged for a in found.attempts] == [int(not a.before) for a in found.attempts]
    assert len(judge.shown[1]) == 2
    assert all(a.success for a in found.attempts if a.before)


def test_every_concept_has_a_vector_of_its_own() -> None:
    model, judge = pipeline(), Judge(1e9)
    aim = targets(model, ("cat", "dog", "cat", "dog"))
    SoftVector(steps=1).attack(model, aim, judge, rng=seeded(0))
    alone, cats, dogs = judge.shown
    assert len(alone) == 4
    assert len(cats) == len(dogs) == 2
    before = {name: p.clone() for name, p in model.named_parameters()}
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.equal(before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize("how", [SoftVector(steps=2), RandomVector()], ids=str)
def test_the_same_seed_gives_the_same(how) -> None:
    model = pipeline()
    shown = []
    for seed in (0, 0, 1):
        judge = Judge(1e9)
        how.attack(model, targets(model), judge, rng=seeded(seed))
        shown.append(judge.shown[1])
    assert torch.equal(shown[0], shown[1])
    assert not torch.equal(shown[0], shown[2])


def test_a_random_vector_has_the_vocabularys_moments() -> None:
    model = pipeline()
    read = []
    encode = model.encode_tokens
    model.encode_tokens = lambda *tokens, embeddings=(): (
        read.extend(embeddings), encode(*tokens, embeddings=embeddings)
    )[1]  # fmt: skip
    RandomVector().attack(model, targets(model), Judge(1e9), rng=seeded(0))
    vector = read[0][0, 1]
    tokenizer = model.tokenizers[0]
    text = [i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids]
    table = model.text_encoder.get_input_embeddings().weight.detach()[text]
    drawn = torch.randn(1, 1, table.shape[1], generator=child(seeded(0)))[0, 0]
    assert torch.allclose(vector, table.mean(0) + table.std(0) * drawn, atol=1e-6)


FIRST = {"sdxl": (1, 1), "sd3": (1, 1, 0), "flux": (1, 0)}
"""Layout -> where text begins, for each encoder: CLIP's has a token before it, T5's none."""


@pytest.mark.parametrize("kind", FIRST)
def test_every_encoder_has_a_vector_and_all_move_together(kind) -> None:
    """The same loop with one leaf for each encoder, and each encoder's own table."""
    model, judge = pipeline(kind), Judge(1e9)
    aim = targets(model)
    SoftVector(steps=3, lr=0.1, batch_size=2).attack(model, aim, judge, rng=seeded(0))
    own = child(seeded(0))
    tables = [e.get_input_embeddings().weight.detach() for e in model.encoders]
    texts = [[i for i in range(len(t)) if i not in t.all_special_ids] for t in model.tokenizers]
    vectors = [t[i].mean(0).clone().requires_grad_() for t, i in zip(tables, texts, strict=True)]
    adam = torch.optim.Adam(vectors, lr=0.1)

    def encode(rows):
        tokens, read = [], []
        for e, (table, at) in enumerate(zip(tables, FIRST[kind], strict=True)):
            ids, mask = (v[rows] for v in model.tokens(aim.prompts, e))
            ids = torch.cat([ids[:, :at], torch.full((len(rows), 1), texts[e][0]), ids[:, at:-1]], 1)
            tokens.append(
                (ids, torch.cat([mask[:, :at], torch.ones(len(rows), 1), mask[:, at:-1]], 1).long())
            )
            around = table[ids]
            put = vectors[e].expand(len(rows), 1, -1)
            read.append(torch.cat([around[:, :at], put, around[:, at + 1 :]], 1))
        return model.encode_tokens(*tokens, embeddings=read)

    latents = model.latents(aim.images)
    for _ in range(3):
        at = torch.randint(3, (2,), generator=own)
        t = torch.randint(model.timesteps, (2,), generator=own)
        noise = model.noise(2, own)
        x = model.add_noise(latents[at], noise, t)
        error = (model(x, t, encode(at)) - model.truth(latents[at], noise, t)).square().mean()
        for vector, slope in zip(vectors, torch.autograd.grad(error, vectors), strict=True):
            assert bool(slope.any())
            vector.grad = slope
        adam.step()
    with torch.no_grad():
        expected = model.sample(encode(torch.arange(3)), steps=2, guidance=2.0, noise=aim.noise)
    assert torch.allclose(judge.shown[1], expected, atol=1e-4)
    assert float((judge.shown[1] - judge.shown[0]).abs().max()) > 1e-4
    shown: list[torch.Tensor] = []
    for seed in (0, 1):
        judge = Judge(1e9)
        RandomVector().attack(model, aim, judge, rng=seeded(seed))
        shown.append(judge.shown[1])
    assert not torch.equal(*shown)


def test_refuses() -> None:
    with pytest.raises(InputError, match="SoftVector.steps must be a whole number at least 1"):
        SoftVector(steps=0)
    with pytest.raises(InputError, match="lr must be above 0"):
        SoftVector(lr=0)
    with pytest.raises(InputError, match="do not fit"):
        SoftVector(tokens=9).attack(pipeline(), targets(pipeline()), Judge(0), rng=seeded(0))
    assert CONCEPTS.erase
