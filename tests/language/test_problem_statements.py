from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unweave import seeded
from unweave.errors import InputError
from unweave.language import ReviewClassifier, Vocabulary, deduplicated, evaluate
from unweave.language.problem_statements.evaluation import calibration_error, figures_of
from unweave.language.problem_statements.nets import CNN, HAN, RNN, Capsules, squashed
from unweave.language.problem_statements.training import threshold_for
from unweave.language.problem_statements.words import cleaned, sentences_of, words_of

THINGS = "tests figures proofs tables plots claims links names".split()


def comments(n: int = 160, seed: int = 0) -> tuple[list[str], list[int], list[str]]:
    """Comments with negations that only two words together tell apart, with a reviewer each."""
    rng = seeded(seed)
    texts, y = [], []
    for i in range(n):
        problem, thing = i % 2, THINGS[int(torch.randint(len(THINGS), (), generator=rng))]
        lines = (f"no problem, the {thing} are good.", f"a problem: the {thing} are not good.")
        swapped = (f"the {thing} are good, not a problem.", f"the {thing} are a problem, no good.")
        texts.append((lines, swapped)[i // 2 % 2][problem] + f" See {i}.")
        y.append(problem)
    return texts, y, [f"r{i // 8}" for i in range(n)]


def test_words_sentences_and_cleaning() -> None:
    assert cleaned("Bad <b>TABLE</b> at https://x.y/z !") == "bad table at !"
    assert words_of("It isn't No. 3!") == ["it", "isn't", "no", ".", "3", "!"]
    assert sentences_of("One two. Three?\n\nfour <br> five") == [
        ["one", "two", "."],
        ["three", "?"],
        ["four", "five"],
    ]
    assert sentences_of(" <br> ") == []
    known = Vocabulary.of(["a b b", "b c a"])
    assert known.words == {"b": 2, "a": 3}
    assert known.flat(["c b", "a b a b a b"]).tolist() == [[1, 2, 0, 0, 0, 0], [3, 2, 3, 2, 3, 2]]
    assert known.nested(["a. b b.", "b"]).tolist() == [[[3, 1, 0], [2, 2, 1]], [[2, 0, 0], [0, 0, 0]]]


def test_vectors_are_read_from_a_file(tmp_path: Path) -> None:
    known, file = Vocabulary({"good": 2, "bad": 3}), tmp_path / "glove.txt"
    file.write_text("good 1 2\nother 5 5\n")
    assert known.vectors(file).tolist() == [[0, 0], [0, 0], [1, 2], [0, 0]]
    for text, told in (
        ("good 1 2\nbad 1\n", "line 2"),
        ("good x\n", "line 1"),
        ("other 1\n", "knows none of the 2 words"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=told):
            known.vectors(file)


VECTORS = torch.randn(12, 6, generator=seeded(0)).index_fill(0, torch.tensor([0]), 0)
NETS = [
    *(pytest.param(lambda k=k, p=p: RNN(VECTORS, kind=k, pool=p), id=f"{k}-{p}") for k, p in
      (("lstm", "ends"), ("gru", "ends"), ("gru", "attention"), ("gru", "capsules"))),
    pytest.param(lambda: CNN(VECTORS), id="cnn"),
]  # fmt: skip


@pytest.mark.parametrize("make", NETS)
def test_padding_changes_nothing(make: Any) -> None:
    torch.manual_seed(0)
    net = make().eval()
    ids = torch.randint(1, 12, (4, 7), generator=seeded(1))
    ids[1, 5:] = 0
    wide = torch.cat([ids, torch.zeros(4, 5, dtype=torch.long)], 1)
    torch.testing.assert_close(net(wide), net(ids))
    alone = net(torch.cat([ids[1:2, :5], torch.zeros(1, 1, dtype=torch.long)], 1))
    torch.testing.assert_close(alone, net(ids)[1:2])
    moved = ids.clone()
    moved[1, 0] = 1 + ids[1, 0] % 11
    assert float((net(moved) - net(ids))[1].detach().abs().max()) > 1e-6


def test_hierarchical_attention_passes_over_padding_and_weighs_words() -> None:
    torch.manual_seed(0)
    net = HAN(VECTORS).eval()
    ids = torch.randint(1, 12, (3, 2, 4), generator=seeded(1))
    ids[1, 1] = 0
    ids[0, 0, 2:] = 0
    wide = torch.zeros(3, 4, 6, dtype=torch.long)
    wide[:, :2, :4] = ids
    torch.testing.assert_close(net(wide), net(ids))
    _, weights = net.read(ids)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3))
    assert not weights[ids == 0].any()
    # one sentence alone: its own attention decides, the second level has nothing to choose
    one, _ = net.word_attention(net.of_words(net.words(ids[1, :1]), ids[1, :1] != 0)[0], ids[1, :1] != 0)
    h, _ = net.of_sentences(one[None], torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(net.head(h[:, 0]), net(ids)[1:2])


def test_capsules_route_as_the_equations_say() -> None:
    torch.manual_seed(0)
    caps = Capsules(5).double()
    h, mask = torch.randn(1, 3, 5, dtype=torch.float64), torch.tensor([[True, True, False]])
    w = caps.votes.detach().numpy()
    u = np.einsum("tw,jwd->tjd", h[0, :2].numpy(), w)
    b = np.zeros((2, 10))
    for _ in range(3):
        c = np.exp(b) / np.exp(b).sum(1, keepdims=True)
        s = (c[..., None] * u).sum(0)
        size = (s**2).sum(1, keepdims=True)
        v = size / (1 + size) * s / np.sqrt(size + 1e-9)
        b = b + (u * v).sum(2)
    np.testing.assert_allclose(caps(h, mask).detach().numpy()[0], v.ravel(), rtol=1e-9)
    assert not squashed(torch.zeros(2, 3)).any()


@pytest.fixture(scope="module")
def data() -> tuple[list[str], list[int], list[str]]:
    return comments()


@pytest.mark.parametrize("model", ["nb", "lr", "svm", "sgd", "forest"])
def test_the_classical_ladder(model: Any, data: Any) -> None:
    texts, y, groups = data
    made = ReviewClassifier(model).fit(texts, y, groups)
    new, right, _ = comments(40, seed=1)
    assert made.score(new, right) > (0.7 if model == "forest" else 0.85)
    p = made.predict_proba(new)
    np.testing.assert_allclose(p.sum(1), 1)
    assert made.predict(new).tolist() == (p[:, 1] >= 0.5).astype(int).tolist()
    np.testing.assert_allclose(np.log(p[:, 1] / p[:, 0]), made.decision_function(new), atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["attention", "han"])
def test_networks_learn_and_show_their_attention(model: Any, data: Any) -> None:
    texts, y, groups = data
    made = ReviewClassifier(model, epochs=8, lr=0.01, dropout=0.0, batch_size=32).fit(texts, y, groups)
    assert made.score(texts, y) > 0.9
    assert 1 <= made.epochs_ <= 8
    new, right, _ = comments(24, seed=2)
    assert made.score(new, right) > 0.8
    (shown, none) = made.attention(["A problem. Bad", "<br>"])
    assert [word for word, _ in shown] == ["a", "problem", ".", "bad"]
    assert sum(weight for _, weight in shown) == pytest.approx(1)
    assert none == []
    twice = [ReviewClassifier(model, epochs=1).fit(texts[:64], y[:64], groups[:64]) for _ in range(2)]
    np.testing.assert_array_equal(twice[0].decision_function(new), twice[1].decision_function(new))


def test_an_encoder_folder(tmp_path: Path, data: Any) -> None:
    transformers = pytest.importorskip("transformers")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "good",
        "bad",
        "no",
        "not",
        "a",
        "problem",
        "the",
        "are",
        *THINGS,
    ]
    transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(tmp_path)
    texts, y, groups = data
    made = ReviewClassifier("encoder", folder=tmp_path, epochs=1, lr=1e-3, batch_size=32).fit(
        texts[:64], y[:64], groups[:64]
    )
    assert made.predict_proba(texts[:3]).shape == (3, 2)


def test_scikit_learns_habit(data: Any) -> None:
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import cross_val_score

    texts, y, _ = data
    made = ReviewClassifier("nb", min_count=1)
    assert is_classifier(made)
    assert clone(made).get_params() == made.get_params()
    assert made.set_params(model="lr").model == "lr"
    assert cross_val_score(ReviewClassifier("lr"), texts, y, cv=2).min() > 0.8
    named = ReviewClassifier("lr").fit(texts, ["yes" if v else "no" for v in y])
    assert named.classes_.tolist() == ["no", "yes"]
    assert set(named.predict(texts)) == {"no", "yes"}
    with pytest.warns(UserWarning, match="1 comments without a word are taken for no"):
        assert named.predict(["<p>", "a problem: the plots are not good."]).tolist() == ["no", "yes"]
    with pytest.warns(UserWarning, match="1 comments without a word are left out"):
        ReviewClassifier("lr").fit([*texts, " "], [*y, 1])


def test_groups_are_never_on_both_sides(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, y, groups = data
    made = ReviewClassifier("svm", seed=3)
    train, aside = made._set_aside(np.array(y), groups)
    assert not {groups[i] for i in train} & {groups[i] for i in aside}
    assert len(train) + len(aside) == len(y)
    assert 0.03 < len(aside) / len(y) < 0.2


def test_calibration_and_a_precision_to_reach(data: Any) -> None:
    rng = np.random.default_rng(0)
    p, y = rng.random(2000), np.zeros(2000, dtype=int)
    y[rng.random(2000) < p] = 1
    assert calibration_error(y == 1, p) < 0.05
    assert calibration_error(y == 1, np.clip(p * 0.5, 0, 1)) > 0.2
    assert threshold_for(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 1]), 0.75) == 0.6
    assert threshold_for(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 1, 0, 0]), 0.75) == 0.8
    assert threshold_for(np.array([0.9, 0.8, 0.8, 0.6]), np.array([1, 1, 0, 0]), 0.9) == 0.9
    with pytest.raises(
        InputError, match=r"reached at no threshold on the 2 comments set aside; the best is 0\.500"
    ):
        threshold_for(np.array([0.9, 0.8]), np.array([0, 1]), 0.9)
    texts, labels, groups = data
    strict = ReviewClassifier("lr", precision=1.0, calibrate=True).fit(texts, labels, groups)
    assert strict.threshold_ != 0.5
    assert strict.scale_ != 1.0


@pytest.mark.parametrize("settings", [{"model": "svm"}, {"model": "sgd"}, {"model": "lr", "calibrate": True}])
def test_calibrated_probabilities_leave_the_models_own_decision_where_one_label_is_rare(
    data: Any, settings
) -> None:
    rng = np.random.default_rng(0)
    texts, y, groups = data
    noisy = [
        int(v ^ (rng.random() < 0.3)) for v in y
    ]  # so that even odds, calibrated, differ from the margin's 0
    kept = [i for i, v in enumerate(noisy) if v == 0 or i % 4 == 0]
    some = [texts[i] for i in kept], [noisy[i] for i in kept], [groups[i] for i in kept]
    made = ReviewClassifier(**settings).fit(*some)
    own = made.pipeline_.predict(texts)
    assert (made.predict(texts) == own).all()
    assert made.threshold_ == pytest.approx(1 / (1 + np.exp(-made.shift_)))
    assert made.threshold_ < 0.5
    even = ReviewClassifier(**settings, threshold=0.5).fit(*some)
    assert even.threshold_ == 0.5
    assert even.predict(texts).sum() < own.sum()


def test_duplicates_and_the_evaluation(data: Any) -> None:
    kept, labels, other = deduplicated(["Good job", "good  JOB", "bad", "good job"], [0, 1, 1, 0])
    assert (kept, labels, other) == ([0, 2], [0, 1], 1)
    texts, y, groups = data
    doubled = [*texts, *texts[:40]]
    found = evaluate(
        ReviewClassifier("lr"), doubled, [*y, *y[:40]], [*groups, *(["copy"] * 40)], seeds=(0, 1, 2)
    )
    assert (found.kept, found.duplicates, found.disagreeing) == (160, 40, 0)
    assert all(len(v) == 3 for v in found.figures.values())
    assert found.figures["accuracy"].min() > 0.8
    assert found.several == 1.0
    assert "160 comments, 40 duplicates dropped" in str(found)
    right, said = np.array([True, True, False, False, False]), np.array([True, False, True, False, False])
    figures = figures_of(right, said, np.array([0.9, 0.4, 0.6, 0.1, 0.2]))
    assert figures["F1 of problems"] == pytest.approx(0.5)
    assert figures["macro F1"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert figures["majority"] == pytest.approx(0.6)
    assert figures["balanced accuracy"] == pytest.approx((0.5 + 2 / 3) / 2)
    assert figures["AUROC"] == pytest.approx(5 / 6)
    assert math.isclose(figures["Brier score"], (0.01 + 0.36 + 0.36 + 0.01 + 0.04) / 5)


def test_refuses(data: Any) -> None:
    texts, y, groups = data
    for call, told in (
        (lambda: ReviewClassifier("svm", epochs=3), "epochs=3 would do nothing with model='svm'"),
        (
            lambda: ReviewClassifier("cnn", tune=False),
            "tune=False would do nothing without pretrained vectors",
        ),
        (lambda: ReviewClassifier("svm", calibrate=True), "calibrate=True would do nothing"),
        (lambda: ReviewClassifier("lr", threshold=0.3, precision=0.9), "threshold=0.3 would do nothing"),
        (lambda: ReviewClassifier("encoder"), "folder must name"),
        (lambda: ReviewClassifier("lr").fit(texts, y[:3]), "one label, and one group if any, a comment"),
        (lambda: ReviewClassifier("lr").fit(texts, [1] * len(y)), "tells two kinds apart; the labels are 1"),
        (lambda: ReviewClassifier("lr").fit(["a", "b"], [0, 1]), "cannot learn from these 2 comments"),
        (lambda: ReviewClassifier("svm").fit(texts, y, ["one"] * len(y)), "do not allow it"),
        (lambda: ReviewClassifier("lr").predict(texts), "not fitted yet"),
        (lambda: ReviewClassifier("lr").network(), "is no network"),
        (lambda: ReviewClassifier("lr").fit(texts, y).attention(texts), "no attention to show"),
        (lambda: ReviewClassifier("lr").set_params(depth=3), "no setting 'depth'"),
        (lambda: evaluate(ReviewClassifier("lr"), texts, y, ["one"] * len(y)), "at least 5 groups"),
    ):
        with pytest.raises(InputError, match=told):
            call()
