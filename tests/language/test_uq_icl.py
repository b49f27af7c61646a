from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unweave import seeded
from unweave.errors import InputError
from unweave.language import UQICL, LabelPrompts, detection, entropy_parts, selective, variance_parts
from unweave.language.uq_icl.asking import by_beams, by_probabilities, log_probabilities

torch_eye = torch.eye(3, dtype=torch.float64)


def votes(*columns: Sequence[float]) -> Tensor:
    return torch.tensor(columns, dtype=torch.float64).T[None]


def test_identical_sets_agree_and_certain_ones_that_do_not_are_all_between() -> None:
    alike = entropy_parts(votes([0.2, 0.8], [0.2, 0.8], [0.4, 1.6]))
    assert float(alike.between_demo) == pytest.approx(0, abs=1e-15)
    wanted = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert float(alike.total) == pytest.approx(wanted, rel=1e-14)
    apart = entropy_parts(torch_eye[None])
    assert float(apart.within_demo) == 0
    assert float(apart.between_demo) == pytest.approx(math.log(3), rel=1e-14)


def slow(a: np.ndarray, normalise: bool) -> tuple[float, float, float]:
    """From the equations, for one text [K, L]."""

    def norm(v: np.ndarray) -> np.ndarray:
        v = v if normalise else v + 1e-7
        return v / v.sum()

    def h(p: np.ndarray) -> float:
        return float(-(p * np.log(p)).sum())

    columns = [norm(a[:, j]) for j in range(a.shape[1])]
    total = h(norm(sum(columns) if normalise else a.sum(1)))
    within = float(np.mean([h(c) for c in columns]))
    return total, within, total - within


@pytest.mark.parametrize("normalise", [True, False])
def test_parts_are_those_of_the_equations(normalise: bool) -> None:
    a = torch.rand(5, 3, 4, generator=seeded(0), dtype=torch.float64) * torch.tensor([1.0, 5.0, 0.1, 2.0])
    found = entropy_parts(a, normalise_columns=normalise)
    for i in range(5):
        wanted = slow(a[i].numpy(), normalise)
        got = (found.total[i], found.within_demo[i], found.between_demo[i])
        np.testing.assert_allclose([float(g) for g in got], wanted, rtol=1e-12)
    # a loud set that is unsure drowns a quiet one that is sure: the published second part falls below 0
    loud = votes([10.0, 10.0], [0.0, 1e-3])
    assert float(entropy_parts(loud, normalise_columns=True).between_demo) > 0.1
    biased = votes([10.0, 1.0], [0.5, 0.5])
    assert float(entropy_parts(biased, normalise_columns=False).between_demo) < 0


def test_orders_are_a_part_of_their_own() -> None:
    one = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)  # two orders of one set
    two = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64)
    v = torch.stack([one, two])[None].permute(0, 3, 1, 2)
    parts = entropy_parts(v)
    h = lambda p: -(p * p.log()).sum(-1)  # noqa: E731
    order = 0.5 * (h(one.mean(0)) - h(one).mean())
    assert float(parts.between_order) == pytest.approx(float(order), rel=1e-12)
    assert float(parts.total) == pytest.approx(
        float(parts.within_demo + parts.between_demo + parts.between_order), rel=1e-12
    )


def test_the_law_of_total_variance() -> None:
    y = torch.randn(3, 4, 6, generator=seeded(0), dtype=torch.float64)
    parts = variance_parts(y)
    np.testing.assert_allclose(parts.total, y.numpy().var(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(parts.within_demo, y.numpy().var(axis=2).mean(1), rtol=1e-12)
    hot = torch.nn.functional.one_hot(torch.randint(3, (2, 4, 6), generator=seeded(1)), 3)
    parts = variance_parts(hot)
    spread = sum(hot[..., k].numpy().reshape(2, -1).var(1) for k in range(3))
    np.testing.assert_allclose(parts.total, spread, rtol=1e-12)


def test_names_follow_the_paper_or_its_code() -> None:
    parts = entropy_parts(votes([0.9, 0.1], [0.4, 0.6]))
    assert parts.named("paper")["epistemic"] is parts.within_demo
    assert parts.named("paper")["aleatoric"] is parts.between_demo
    assert parts.named("code")["aleatoric"] is parts.within_demo
    assert parts.named("code")["epistemic"] is parts.between_demo


class Told:
    """Prompts over bare tokens: a text is a number; labels are 0 and 1, the second written as "2 3" or "4"."""

    classes = 2

    def ids(self, demonstrations: Sequence[tuple[Any, int]], text: Any) -> list[int]:
        return [5, *(t for pair in demonstrations for t in (10 + pair[0], 6 + pair[1])), 10 + text]

    def variants(self) -> list[list[tuple[int, ...]]]:
        return [[(1,)], [(2, 3), (4,)]]

    def read(self, answer: Sequence[int]) -> tuple[int, int] | None:
        if answer[0] == 1:
            return 0, 1
        return (1, 1) if answer[0] == 4 else (1, 2) if tuple(answer[:2]) == (2, 3) else None

    def blank(self) -> int:
        return 9


@pytest.fixture(scope="module")
def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval().double()
        for p in model.parameters():
            p.data.mul_(8)  # opinions, so that prompts differ
        return model


POOL = [(i % 9, i % 2) for i in range(12)]


@torch.no_grad()
def naive(model: Any, ids: list[int], way: tuple[int, ...]) -> float:
    """Probability of `way` after `ids`, one token at a time."""
    p = 1.0
    for token in way:
        p *= float(model(torch.tensor([ids])).logits[0, -1].softmax(-1)[token])
        ids = [*ids, token]
    return p


def test_direct_scores_add_up_all_ways_to_write_a_label(llama: Any) -> None:
    prompts = Told()
    ids = [prompts.ids(POOL[:k], 3) for k in (1, 4, 2)]  # of different lengths in one batch
    with torch.no_grad():
        asked = by_probabilities(llama, ids, prompts, 2)
    for row, out, i in zip(asked.votes, asked.invalid, ids, strict=True):
        wanted = [naive(llama, i, (1,)), naive(llama, i, (2, 3)) + naive(llama, i, (4,))]
        np.testing.assert_allclose(row, wanted, rtol=1e-10)
        assert float(out) == pytest.approx(1 - sum(wanted))


def test_beams_are_scored_by_the_models_own_probability_of_the_label(llama: Any) -> None:
    prompts, ids = Told(), Told().ids(POOL[:3], 1)
    with torch.no_grad():
        once = by_beams(llama, [ids], prompts, beams=24, tokens=2, once=True, most=4)
        each = by_beams(llama, [ids], prompts, beams=24, tokens=2, once=False, most=4)
    assert 0 < float(once.invalid) < 1
    said = naive(llama, ids, (1,))
    assert float(once.votes[0, 0]) in (0, pytest.approx(said, rel=1e-9))
    assert float(each.votes[0].sum()) >= float(once.votes[0].sum())
    # the last two tokens together, after one that is not counted
    with torch.no_grad():
        found = log_probabilities(llama, [[*ids, 7, 2]], [2], [3], 1)
    assert float(found.exp()) == pytest.approx(naive(llama, [*ids, 7], (2, 3)), rel=1e-9)


def test_decompose_asks_every_text_with_every_set(llama: Any) -> None:
    how = UQICL(sets=3, shots=4)
    drawn = how.demonstrations([y for _, y in POOL], 2, rng=seeded(0))
    assert [len(set(d)) for d in drawn] == [4, 4, 4]
    assert all(sum(POOL[i][1] for i in d) == 2 for d in drawn)
    sets = [[POOL[i] for i in d] for d in drawn]
    found = how.decompose(llama, POOL, [0, 5], Told(), rng=seeded(0), sets=sets)
    wanted = torch.tensor(
        [
            [
                [naive(llama, Told().ids(s, x), (1,)) for s in sets],
                [sum(naive(llama, Told().ids(s, x), w) for w in ((2, 3), (4,))) for s in sets],
            ]
            for x in (0, 5)
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(found.votes[..., 0], wanted, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.total, entropy_parts(wanted).total)
    first = wanted[:, :, 0] / wanted[:, :, 0].sum(1, keepdim=True)
    torch.testing.assert_close(found.surprise, -first.amax(1).log())
    torch.testing.assert_close(found.semantic_entropy, -(first * first.log()).sum(1))
    assert found.prediction.tolist() == (wanted / wanted.sum(1, keepdim=True)).sum(2).argmax(1).tolist()
    assert (found.interval[:, 0] <= found.interval[:, 1]).all()
    assert (found.interval[:, 1] <= math.log(2)).all()
    assert list(found.scores())[:3] == ["total", "within demonstrations", "between demonstrations"]
    blank = UQICL(sets=3, shots=4, calibrate=True).decompose(
        llama, POOL, [9], Told(), rng=seeded(0), sets=sets
    )
    torch.testing.assert_close(blank.probabilities, torch.full((1, 2), 0.5, dtype=torch.float64))


def test_orders_samples_and_the_published_form_run(llama: Any) -> None:
    found = UQICL(sets=2, shots=4, orders=2).decompose(llama, POOL, [0, 5], Told(), rng=seeded(0))
    assert found.votes.shape == (2, 2, 2, 2)
    assert (found.between_order > 0).all()
    how = UQICL(sets=2, shots=4, scoring="samples", answers=400, tokens=2, temperature=2.0)
    drawn = how.decompose(llama, POOL, [0], Told(), rng=seeded(0))
    again = how.decompose(llama, POOL, [0], Told(), rng=seeded(0))
    assert torch.equal(drawn.votes, again.votes)
    shares = drawn.votes[0, :, :, 0] / drawn.votes[0, :, :, 0].sum(0)
    assert float(drawn.within_demo) == pytest.approx(float((1 - shares.square().sum(0)).mean()))
    published = UQICL.published()
    assert (published.scoring, published.beams, published.normalise_columns) == ("beams", "each", False)


def test_label_prompts_read_answers(tmp_path: Any) -> None:
    from tests.causal_world import tokenizer

    pytest.importorskip("tokenizers")
    tok = tokenizer()
    prompts = LabelPrompts(tok, ["quick", "lazy"], verbaliser="names")
    told = prompts.prompt([("the fox", 1)], "a dog")
    assert told == (
        "Answer with one of these labels: quick, lazy.\n\nText: the fox\nLabel: lazy\n\nText: a dog\nLabel:"
    )
    for y, ways in enumerate(prompts.variants()):
        for way in ways:
            assert prompts.read(way) == (y, len(way))
    run = tok(" jumps", add_special_tokens=False)["input_ids"]
    named = prompts.variants()[1][0]
    assert prompts.read([*run, *named]) == (1, len(run) + len(named))
    line = tok("\n", add_special_tokens=False)["input_ids"]
    assert prompts.read([*run, *line, *named]) is None
    assert prompts.read([*line, *named]) == (1, len(line) + len(named))
    assert prompts.blank() == "N/A"
    for call, message in (
        (lambda: LabelPrompts(tok, ["a"]), "at least two different names"),
        (lambda: LabelPrompts(tok, ["quick", "fox"], verbaliser="names", instruction="quick?"), "name 'fox'"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_detection_and_selective_prediction() -> None:
    score = torch.tensor([0.1, 0.2, 0.3, 0.9, 0.3, 0.8])
    wrong = torch.tensor([False, False, True, True, False, False])
    found = detection(score, wrong, rng=seeded(0))
    assert found is not None
    # pairs (wrong, right): 0.3 beats 2 of 4 and ties with 1; 0.9 beats 4 of 4
    assert found.auroc == pytest.approx((2.5 + 4) / 8)
    assert found.auroc_interval[0] <= found.auroc <= found.auroc_interval[1]
    assert (found.wrong, found.n) == (2, 6)
    assert found.aupr == pytest.approx((1 + 2 / 4) / 2)  # 0.9 alone, then both 0.3 and what lies above
    from sklearn.metrics import average_precision_score, roc_auc_score

    many = torch.randint(20, (200,), generator=seeded(0)).double()
    bad = torch.rand(200, generator=seeded(1)) < many / 25
    told = detection(many, bad, rng=seeded(0), repeats=5)
    assert told is not None
    assert told.auroc == pytest.approx(roc_auc_score(bad, many))
    assert told.aupr == pytest.approx(average_precision_score(bad, many))
    kept = selective(score, wrong)
    torch.testing.assert_close(kept.risk, torch.tensor([0, 0, 0.5 / 3, 1 / 4, 1 / 5, 2 / 6]).double())
    assert kept.area == pytest.approx(float(kept.risk.mean()))
    assert detection(score, wrong & False, rng=seeded(0)) is None
    with pytest.raises(InputError, match="one a text"):
        selective(score, wrong[:2])


def test_refuses(llama: Any) -> None:
    from torch.nn import Linear

    how = UQICL(sets=2, shots=4)
    for call, message in (
        (lambda: UQICL(answers=3), "answers=3 would do nothing with scoring='direct'"),
        (lambda: UQICL(scoring="samples", calibrate=True), "calibrate=True would do nothing"),
        (lambda: how.demonstrations([0, 1], 2, rng=seeded(0)), "class 0 of the pool, which has 1"),
        (lambda: how.demonstrations([0, 0, 0], 2, rng=seeded(0)), "class 1 of the pool, which has 0"),
        (lambda: how.demonstrations([0, 5], 2, rng=seeded(0)), "demonstration of class 5"),
        (lambda: how.demonstrations([0], 1, rng=seeded(0)), "at least 2 labels"),
        (lambda: UQICL(shots=3).demonstrations([0, 1] * 4, 2, rng=seeded(0)), "multiple"),
        (
            lambda: UQICL(selection="random", shots=9).demonstrations([0, 1], 2, rng=seeded(0)),
            "the pool, which has 2",
        ),
        (lambda: how.decompose(llama, POOL, [], Told(), rng=seeded(0)), "no text"),
        (lambda: how.decompose(llama, POOL, [1], Told(), rng=seeded(0), sets=[[]]), "sets is 2; got 1"),
        (
            lambda: UQICL(sets=1, shots=2, scoring="beams", answers=1, tokens=1).decompose(
                llama, POOL, list(range(9)), Told(), rng=seeded(0)
            ),
            "without any of the labels",
        ),
        (
            lambda: UQICL(sets=1, shots=2, scoring="beams").decompose(
                Linear(1, 1), POOL, [1], Told(), rng=seeded(0)
            ),
            "has no generate",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
