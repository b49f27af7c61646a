from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.erase.pipelines import CONCEPTS, pipeline
from unweave import seeded
from unweave.erase import Targets, Text, UnlearnDiffAtk
from unweave.erase.attacks import Insertion
from unweave.erase.unlearn_diff_atk import _Search, pick, simplex
from unweave.errors import InputError, NonFiniteError

SMALL = UnlearnDiffAtk(tokens=2, levels=2, iterations=2)


class Says:
    """A judge that sees the same in every image."""

    def __init__(self, word: str = "") -> None:
        self.word, self.seen = word, 0

    def names(self, images: torch.Tensor) -> list[str]:
        self.seen += len(images)
        return [self.word] * len(images)


def targets(
    kind: str = "sd", prompts: tuple[str, ...] = ("a photo of a cat", "a cat"), steps: int = 1
) -> Targets:
    model, n = pipeline(kind), len(prompts)
    images = torch.rand(n, 3, 16, 16, generator=seeded(1)) * 2 - 1
    return Targets(
        prompts=prompts, concepts=("cat",) * n, images=images if kind != "pixart" else images[..., :16, :16],
        noise=model.noise(n, seeded(2)), steps=steps, guidance=1.0,
    )  # fmt: skip


def inserted(model, aim: Targets, tokens: int = 2, banned: tuple[str, ...] = ()) -> Insertion:
    return Insertion(model, aim, Says(), tokens=tokens, banned=banned, batch_size=8, who="UnlearnDiffAtk")


def sorted_simplex(row: torch.Tensor) -> torch.Tensor:
    """By sorting (Held, Wolfe, Crowder, 1974), in float64."""
    x = row.double()
    high = x.sort(descending=True).values
    tau = max((float(high[: j + 1].sum()) - 1) / (j + 1) for j in range(len(x)))
    return (x - tau).clamp(min=0)


def test_simplex_by_hand() -> None:
    row = torch.tensor([[0.9, 0.5, -1.0, 3.0]])
    # the last may not be used; of 0.9, 0.5, -1 the first two stay: tau = (1.4 - 1) / 2
    assert torch.allclose(simplex(row, torch.arange(3)), torch.tensor([[0.7, 0.3, 0.0, 0.0]]))


def test_simplex_is_that_of_sorting() -> None:
    for scale, width in ((0.01, 5), (1.0, 7), (30.0, 3000), (1e-4, 3000)):
        rows = torch.randn(2, 3, width, generator=seeded(width)) * scale
        found = simplex(rows, torch.arange(width))
        for row, own in zip(rows.flatten(0, 1), found.flatten(0, 1), strict=True):
            assert torch.allclose(own.double(), sorted_simplex(row), atol=1e-6)
        assert torch.allclose(found.sum(-1), torch.ones(2, 3), atol=1e-5)


def test_pick_by_hand_and_never_the_impossible() -> None:
    rows = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    for chance, token in ((0.0, 1), (0.24, 1), (0.25, 3), (0.99999994, 3)):
        assert pick(rows, torch.tensor([chance])).item() == token
    drawn = pick(rows.expand(4000, 5), torch.rand(4000, generator=seeded(0)))
    assert set(drawn.tolist()) == {1, 3}
    assert abs(float((drawn == 3).float().mean()) - 0.75) < 0.03


class OneHot(torch.autograd.Function):
    """The dense way: a one-hot forward, a clamped gradient backward."""

    @staticmethod
    def forward(ctx, rows, picked):
        return F.one_hot(picked, rows.shape[-1]).to(rows.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad.clamp(-1, 1), None


@pytest.mark.parametrize("kind", ["sd", "pixart"])
def test_gradient_is_the_dense_straight_through_one(kind) -> None:
    model, aim = pipeline(kind), targets(kind)
    with torch.no_grad():
        last = model.denoiser.conv_out if kind == "sd" else model.denoiser.proj_out
        last.weight.mul_(30.0)  # so that some of it is clamped
    there, latents = inserted(model, aim), model.latents(aim.images)
    width = there.vocabulary
    rows = torch.rand(2, 2, width, generator=seeded(3)).softmax(-1)
    found = SMALL.gradient(model, there, latents, [0, 1], rows, 300, [seeded(5), seeded(6)])
    for k, prompt in enumerate(aim.prompts):
        rng = seeded(5 + k)
        picked = pick(rows[k], torch.rand(2, generator=rng))
        noise = model.noise(1, rng)
        u = rows[k].clone().requires_grad_()
        start = 1 if kind == "sd" else 0
        ids, mask = model.tokens([prompt])
        ids = torch.cat([ids[:, :start], picked[None], ids[:, start:-2]], 1)
        mask = torch.cat([mask[:, :start], torch.ones(1, 2, dtype=mask.dtype), mask[:, start:-2]], 1)
        table = model.text_encoder.get_input_embeddings().weight
        around = table[ids]
        vectors = torch.cat(
            [around[:, :start], (OneHot.apply(u, picked) @ table)[None], around[:, start + 2 :]], 1
        )
        text = model.encode_tokens((ids, mask), embeddings=vectors)
        a = model.alphas_cumprod[300]
        noisy = (a.sqrt() * latents[k : k + 1] + (1 - a).sqrt() * noise).float()
        error = (model(noisy, 300, text) - noise).square().mean()
        dense = torch.autograd.grad(error, u)[0]
        assert torch.allclose(found[k], dense, atol=1e-5 * float(dense.abs().max()) + 1e-9)
        assert 0.02 < float((dense.abs() == 1).float().mean()) < 0.98


def test_a_gradient_is_the_mean_over_draws() -> None:
    model, aim = pipeline("pixart"), targets("pixart")
    there, latents = inserted(model, aim), model.latents(aim.images)
    rows = torch.rand(2, 2, there.vocabulary, generator=seeded(3)).softmax(-1)

    def found(draws: int, *rngs: torch.Generator) -> torch.Tensor:
        return replace(SMALL, draws=draws).gradient(model, there, latents, [0, 1], rows, 300, rngs)

    rngs = (seeded(5), seeded(6))
    alone = [found(1, *rngs) for _ in range(3)]
    assert max(float(g.abs().max()) for g in alone) < 1  # none is clamped
    assert torch.allclose(found(3, seeded(5), seeded(6)), sum(alone) / 3, atol=1e-7)


def test_a_step_of_the_search_worked_by_hand() -> None:
    model, aim = pipeline("pixart"), targets("pixart")
    there, how = inserted(model, aim, tokens=1), replace(SMALL, tokens=1, lr=0.1, weight_decay=0.5)
    there.allowed = torch.tensor([3, 5])
    search = _Search(how, there, [False, True])
    assert search.left == [0]
    assert search.rows([0])[0, 0, [3, 4, 5]].tolist() == [0.5, 0.0, 0.5]
    slope = torch.zeros(1, there.vocabulary)
    slope[0, 3], slope[0, 5] = -0.05, -0.45
    search.step_([0], [slope])
    # with the decay 0.5 * 0.5 the slopes are 0.2 and -0.2: Adam moves by 0.1 each way, and the sum is still one
    assert search.rows([0])[0, 0, [3, 5]].tolist() == pytest.approx([0.4, 0.6], abs=1e-5)
    assert search.rows([1])[0, 0, [3, 5]].tolist() == [0.5, 0.5]
    shown = []
    there.shows = lambda rows, ids: shown.append((rows, ids.tolist())) or [False]  # type: ignore[method-assign]
    search.judge_([0])
    search.judge_([0])
    assert shown == [([0], [[5]])]  # the same candidate is not drawn again
    first, second = search.attacked().attempts
    assert (first.ids, first.judged, first.success) == ((5,), 1, False)
    assert (second.ids, second.judged, second.success, second.before) == ((), 0, True, True)


def test_inserted_tokens_are_read_as_if_written() -> None:
    for kind in ("sd", "pixart"):
        model, aim = pipeline(kind), targets(kind, ("a cat",))
        tokens = model.tokenizers[0]("red dog", add_special_tokens=False).input_ids
        there = inserted(model, aim, tokens=len(tokens))
        ids, mask = there.ids([0], torch.tensor([tokens]))
        written = model.tokens(["red dog a cat"])
        assert torch.equal(ids, written[0])
        assert torch.equal(mask, written[1])


def test_gradients_lead_to_the_token_that_explains_the_image() -> None:
    """The pipeline's error is 0 after one token alone, and grows with the distance from it: the attack finds it."""
    model = pipeline()
    table = model.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        table.copy_(F.normalize(table, dim=1))
    table = table.detach()
    aim, word = targets(prompts=("a photo of a cat",) * 4), "church"
    aim = replace(aim, images=aim.images[:1].repeat(4, 1, 1, 1))
    clean = model.latents(aim.images[:1])
    wanted = model.tokenizers[0](word, add_special_tokens=False).input_ids[0]

    def explains(x, *, timestep, encoder_hidden_states):
        a = model.alphas_cumprod[timestep].view(-1, 1, 1, 1).float()
        gap = (encoder_hidden_states[:, 1] - table[wanted]).square().sum(-1).view(-1, 1, 1, 1)
        return SimpleNamespace(sample=(x - a.sqrt() * clean) / (1 - a).sqrt() + gap)

    model.denoiser.forward = explains  # type: ignore[method-assign]
    model.encode_tokens = lambda *ids, embeddings=(): Text(  # type: ignore[method-assign]
        table[ids[0][0]] if not len(embeddings) else embeddings[0]
    )
    judged: list[int] = []

    class Counts(Says):
        def names(self, images):
            judged.append(len(images))
            return super().names(images)

    attack = UnlearnDiffAtk(tokens=1, levels=3, iterations=60)
    found = attack.attack(model, aim, Counts(), rng=seeded(0))
    assert [a.ids for a in found.attempts] == [(wanted,)] * 4
    assert all(a.text == word for a in found.attempts)
    assert judged[0] == 4
    assert sum(judged[1:]) == found.judged <= 12
    other = replace(attack, banned=(word,)).attack(model, aim, Says(), rng=seeded(0))
    assert wanted not in {i for a in other.attempts for i in a.ids}


def test_counts_what_the_judge_saw_and_stops() -> None:
    model, aim = pipeline(), targets()
    judge = Says("cat")
    found = SMALL.attack(model, aim, judge, rng=seeded(0))
    assert (found.pre_asr, found.asr, found.judged, judge.seen) == (100, 100, 0, 2)
    judge = Says("dog")
    found = SMALL.attack(model, aim, judge, rng=seeded(0))
    assert (found.pre_asr, found.asr) == (0, 0)
    assert judge.seen == 2 + found.judged
    assert all(1 <= a.judged <= SMALL.levels and len(a.ids) == 2 for a in found.attempts)
    assert all(a.text for a in found.attempts)

    class Later(Says):
        def names(self, images):
            self.seen += 1
            return ["cat" if self.seen > 1 else ""] * len(images)

    found = SMALL.attack(model, aim, Later(), rng=seeded(0))
    assert (found.pre_asr, found.asr, found.judged) == (0, 100, 2)


def test_a_target_does_not_depend_on_the_others_or_the_batch() -> None:
    model, aim = pipeline(), targets()
    whole = SMALL.attack(model, aim, Says(), rng=seeded(0))
    parts = replace(SMALL, batch_size=1).attack(model, aim, Says(), rng=seeded(0))
    assert [a.ids for a in whole.attempts] == [a.ids for a in parts.attempts]

    class First(Says):
        def names(self, images):
            self.seen += 1
            return ["cat" if self.seen == 1 and k == 0 else "" for k in range(len(images))]

    alone = SMALL.attack(model, aim, First(), rng=seeded(0))
    assert alone.attempts[0].before
    assert alone.attempts[1].ids == whole.attempts[1].ids


def test_the_pipeline_keeps_its_bits_and_flags() -> None:
    model = pipeline()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SMALL.attack(model, targets(), Says(), rng=seeded(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_banned_words_go_with_all_their_pieces() -> None:
    model, aim = pipeline(), targets()
    tokenizer = model.tokenizers[0]
    free, fewer = inserted(model, aim), inserted(model, aim, banned=("golf ball",))
    gone = set(free.allowed.tolist()) - set(fewer.allowed.tolist())
    assert set(tokenizer("golf ball", add_special_tokens=False).input_ids) <= gone
    assert not set(tokenizer.all_special_ids) & set(free.allowed.tolist())
    assert "dog</w>" in {tokenizer.convert_ids_to_tokens(i) for i in fewer.allowed.tolist()}


def test_a_banned_word_is_in_no_token_that_is_left() -> None:
    model = pipeline()
    tokenizer = model.tokenizers[0]
    written = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    left = {written[i] for i in inserted(model, targets(), banned=("AR",)).allowed.tolist()}
    assert any("ar" in token for token in written)
    assert not [token for token in left if "ar" in token]


def test_no_row_past_the_tokenizer_is_inserted() -> None:
    model = pipeline("pixart")
    words = len(model.tokenizers[0])
    model.text_encoder.set_input_embeddings(torch.nn.Embedding(words + 7, 16))
    there = inserted(model, targets("pixart"))
    assert there.vocabulary == words + 7
    assert max(there.allowed.tolist()) < words


def test_levels_are_the_middles_of_equal_parts(monkeypatch) -> None:
    seen = []

    def gradient(self, model, there, latents, at, rows, t, rngs):
        seen.append(t)
        return torch.zeros_like(rows)

    monkeypatch.setattr(UnlearnDiffAtk, "gradient", gradient)
    method = replace(SMALL, levels=4, iterations=1)
    method.attack(pipeline("pixart"), targets("pixart"), Says(), rng=seeded(0))
    assert seen == [125, 375, 625, 875]


def test_refuses() -> None:
    for name in ("tokens", "levels", "iterations", "draws", "batch_size"):
        with pytest.raises(InputError, match=f"{name} must be a whole number at least 1"):
            UnlearnDiffAtk(**{name: 0})
    with pytest.raises(InputError, match="lr must be above 0"):
        UnlearnDiffAtk(lr=0.0)

    def attack(model, aim: Targets, judge=None, **settings):
        return replace(SMALL, **settings).attack(model, aim, judge or Says(), rng=seeded(0))

    with pytest.raises(InputError, match="several text encoders"):
        attack(pipeline("sdxl"), targets())
    with pytest.raises(InputError, match="6 more do not fit into the 12"):
        attack(pipeline(), targets(prompts=("a photo of a cat",)), tokens=6)
    with pytest.raises(InputError, match="at most 1000"):
        attack(pipeline(), targets(), levels=1001)
    aim = targets()
    with pytest.raises(InputError, match="Use images of the size"):
        attack(pipeline(), replace(aim, images=torch.zeros(2, 3, 8, 8)))
    with pytest.raises(InputError, match="Targets.steps must be a whole number at least 1"):
        replace(aim, steps=0)
    with pytest.raises(InputError, match="Targets.guidance must be above 0"):
        replace(aim, guidance=-1.0)
    with pytest.raises(InputError, match="the targets' noise is"):
        attack(pipeline(), replace(aim, noise=torch.zeros(2, 4, 4, 4)))
    with pytest.raises(InputError, match="empty word"):
        attack(pipeline(), aim, banned=(" ",))
    with pytest.raises(InputError, match="no token is left"):
        attack(pipeline(), aim, banned=tuple("abcdefghijklmnopqrstuvwxyz"))

    class Odd(Says):
        def names(self, images):
            return [True] * len(images)

    with pytest.raises(InputError, match=r"one name \(a string\) an image"):
        attack(pipeline(), aim, Odd())
    broken = pipeline()
    with torch.no_grad():
        broken.denoiser.conv_out.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="not finite"):
        attack(broken, aim)


def test_targets_are_what_the_judge_sees() -> None:
    model, calls = pipeline(), []

    class Some(Says):
        def names(self, images):
            calls.append(len(images))
            return ["cat" if (k + len(calls)) % 2 else "golf ball" for k in range(len(images))]

    found = Targets.drawn(model, CONCEPTS, Some(), n=4, tries=3, steps=1, guidance=1.0, rng=seeded(0))
    assert len(found) == 4
    assert found.prompts[:2] == ("a photo of a cat", "a photo of a golf ball")
    again = model.sample(found.prompts, steps=1, guidance=1.0, noise=found.noise)
    assert torch.allclose(again, found.images, atol=1e-5)
    with pytest.raises(InputError, match="none of the original's images"):
        Targets.drawn(model, CONCEPTS, Says(), n=2, tries=1, steps=1, rng=seeded(0))
    with pytest.raises(InputError, match="leaves room for 9"):
        Targets.drawn(model, CONCEPTS, Says("cat"), room=9, rng=seeded(0))
    with pytest.raises(InputError, match=r"Targets.drawn.n must be a whole number at least 1"):
        Targets.drawn(model, CONCEPTS, Says("cat"), n=0, rng=seeded(0))
    short = Targets.drawn(model, CONCEPTS.only("cat"), Says("cat"), n=3, room=5, steps=1, rng=seeded(0))
    assert set(short.prompts) == {"a cat in the park", "a photo of a cat"}
    with pytest.raises(InputError, match="at least one prompt"):
        replace(found, prompts=())
    with pytest.raises(InputError, match="must be"):
        replace(found, images=found.images[:, 0])


def test_measurement_has_the_interval_and_the_others() -> None:
    from unweave.erase import Attacked, Attempt
    from unweave.statistics import wilson

    def of(*success: bool) -> Attacked:
        return Attacked(
            attempts=tuple(
                Attempt(prompt="a cat", concept="cat", before=i == 0, success=s, judged=int(i > 0))
                for i, s in enumerate(success)
            )
        )

    edited = of(True, True, False, False)
    m = edited.measurement("x", original=of(True, True), oracles=[of(True, False), of(True, True)])
    assert (m.value, m.n, m.original, m.oracle_mean) == (50.0, 4, 100.0, 75.0)
    assert m.oracle_spread == pytest.approx(2 * 25 / 2**0.5)
    assert m.interval == pytest.approx([100 * e for e in wilson(2, 4)])
    assert m.note == "3 candidates judged; 25 % without the attack"
    assert edited.measurement("x", before=True).value == 25.0
