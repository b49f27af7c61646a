from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from tests.contract import world as points_world
from tests.language_world import VOCABULARY, llama, text
from tests.prune.world import assert_untouched, state
from unweave import Data, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.prune import PASER, Global, Prune
from unweave.prune.paser.answers import divergence, reading
from unweave.prune.paser.budget import Consistency, apportion, fill, key_phrases
from unweave.prune.paser.clusters import affinity, assign, diffusion, diffusion_clusters
from unweave.tasks import CausalLM

TWO = lambda embeddings: torch.arange(len(embeddings)) % 2  # noqa: E731
PLAIN = PASER(budget=10, clusters=TWO, concepts=None)


def damaged(model, amount: float = 0.6):
    return Prune(budget=Global(amount)).apply(model, text(), rng=seeded(0))


def answers(prompt: int = 6, padding: int = 0) -> Data[CausalLM]:
    """The text, of which the first tokens are asked and the last are padding."""
    rows = []
    for (ids,) in text(320).batches():
        for row in ids:
            mask = torch.ones_like(row)
            mask[len(row) - padding :] = 0
            labels = row.clone()
            labels[:prompt] = -100
            rows.append({"input_ids": row, "attention_mask": mask, "labels": labels})
    return Data(rows, CausalLM(), 8)


# exact


def test_divergence_by_hand() -> None:
    # p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4)
    p, q = torch.tensor([[[0.0, -math.inf]]]), torch.zeros(1, 1, 2)
    here = torch.ones(1, 1, dtype=torch.bool)
    by_hand = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert float(divergence(p, q, here)) == pytest.approx(by_hand, abs=1e-6)
    assert float(divergence(q, p, here)) == pytest.approx(by_hand, abs=1e-6)
    assert float(divergence(p, q, here, "kl")) == pytest.approx(math.log(2), abs=1e-6)
    apart = torch.tensor([[[-math.inf, 0.0]]])
    assert float(divergence(p, apart, here)) == pytest.approx(math.log(2), abs=1e-6)  # its largest value


def test_the_divergence_is_a_mean_over_what_is_answered() -> None:
    rng = seeded(0)
    p, q = torch.randn(1, 2, 5, generator=rng), torch.randn(1, 2, 5, generator=rng)
    here = torch.tensor([[True, False]])
    alone = divergence(p[:, :1], q[:, :1], here[:, :1])
    assert torch.equal(divergence(p, q, here), alone)
    many = divergence(
        p[:, :1].repeat(1, 50, 1), q[:, :1].repeat(1, 50, 1), torch.ones(1, 50, dtype=torch.bool)
    )
    torch.testing.assert_close(many, alone)  # length is no damage


@pytest.mark.parametrize(
    ("total", "weights", "rooms", "expected"),
    [
        (10, [3, 1, 1], [9, 9, 9], [6, 2, 2]),
        (10, [2, 2, 1], [9, 9, 9], [4, 4, 2]),
        (10, [1, 1, 1], [9, 9, 9], [4, 3, 3]),
        (10, [8, 1, 1], [4, 9, 9], [4, 3, 3]),  # what the first has no room for goes to the others
        (10, [1, 0, 0], [4, 9, 9], [4, 3, 3]),
        (10, [1, 1, 1], [2, 3, 1], [2, 3, 1]),
        (0, [1, 1], [5, 5], [0, 0]),
    ],
)
def test_shares_of_a_budget(total, weights, rooms, expected) -> None:
    assert apportion(total, weights, rooms) == expected


def test_two_known_concepts_never_seen_together_contradict() -> None:
    graph = Consistency()
    assert graph.accept({"3+4", "7"})
    assert graph.accept({"3+4", "7"})
    assert graph.accept({"2+5", "7"})  # one is new
    assert graph.accept({"4+4", "8"})
    assert not graph.accept({"3+4", "8"})
    assert not graph.accept({"3+4", "8", "new"})
    assert graph.accept({"new", "3+4"})  # a rejected example leaves nothing behind
    assert graph.accept(set())


def test_a_full_walk_by_hand() -> None:
    concepts = {0: {"a", "x"}, 1: {"b", "y"}, 2: {"a", "y"}, 3: {"c"}, 4: {"d"}, 5: {"b", "x"}}
    # shares 3 and 1; the first queue rejects 2 and gives 3 instead; the second gives 4
    found = fill([[0, 1, 2, 3], [4, 5]], [3.0, 1.0], 4, concepts.__getitem__)
    assert found == ([0, 1, 3, 4], [2], 5)
    # nothing but contradictions is left: what can be accepted is all there is
    assert fill([[0, 1, 2, 3], [4, 5]], [3.0, 1.0], 6, concepts.__getitem__) == ([0, 1, 3, 4], [2, 5], 6)
    assert fill([[0, 1, 2, 3], [4, 5]], [3.0, 1.0], 4, None) == ([0, 1, 2, 4], [], 0)


def test_key_phrases_are_runs_between_common_tokens() -> None:
    rows = [[1, 10 + i, 1, 30 + i, 50 + i] for i in range(20)]
    data = Data(
        [{"input_ids": torch.tensor(r), "attention_mask": torch.tensor([1, 1, 1, 1, 0])} for r in rows],
        CausalLM(),
    )
    assert key_phrases(data)[3] == {(13,), (33,)}
    assert key_phrases(Data(torch.utils.data.TensorDataset(torch.tensor(rows)), CausalLM()))[3] == {
        (13,),
        (33, 53),
    }


# naive


def test_degradation_is_that_of_the_equation_answer_by_answer() -> None:
    model = llama().double()
    pruned = damaged(model)
    data = answers(prompt=6, padding=3)
    found = PLAIN.select(model, pruned, data, rng=seeded(0)).degradation
    for i in (0, 7, 19):
        example = data.examples[i]
        with torch.no_grad():
            p, q = (m(input_ids=example["input_ids"][None]).logits[0].softmax(-1) for m in (model, pruned))
        total = 0.0
        for t in range(5, 12):  # logits at t answer token t + 1: tokens 6 to 12
            for a, b in zip(p[t].tolist(), q[t].tolist(), strict=True):
                total += 0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b))
        assert float(found[i]) == pytest.approx(total / 7, rel=1e-9)


def test_diffusion_coordinates_are_eigenvectors_of_the_random_walk() -> None:
    x = torch.randn(60, 3, generator=seeded(0)).double().numpy()
    graph = affinity(x, 59, 4)
    full = graph.toarray()
    d2 = ((x[:, None] - x[None]) ** 2).sum(-1)
    off = d2[~torch.eye(60, dtype=torch.bool).numpy()]
    naive = (
        torch.tensor(d2).div(-2 * float(torch.tensor(off).sqrt().quantile(0.5)) ** 2).exp().fill_diagonal_(0)
    )
    torch.testing.assert_close(torch.tensor(full), naive)
    walk = naive / naive.sum(1, keepdim=True)
    z = torch.tensor(diffusion(graph, 4, 0))
    values = torch.linalg.eigvals(walk).real.sort(descending=True).values[:4]
    torch.testing.assert_close(walk @ z, z * values, rtol=1e-8, atol=1e-10)


def test_sparse_and_dense_eigenvectors_agree() -> None:
    # five blobs in four pieces: the last two hang together, so that eigenvalue 1 comes four times and a fifth is near
    where = torch.tensor([0.0, 8.0, 16.0, 24.0, 24.8])
    x = (
        torch.cat([torch.rand(130, 3, generator=seeded(i)) + place for i, place in enumerate(where)])
        .double()
        .numpy()
    )
    graph = affinity(x, 40, 4)
    assert len(x) > 500
    assert connected_components(graph)[0] == 4
    sparse = torch.tensor(diffusion(graph, 7, 0))
    root = torch.tensor(graph.sum(1)).flatten() ** -0.5
    values, vectors = torch.linalg.eigh(root[:, None] * torch.tensor(graph.toarray()) * root)
    dense = root[:, None] * vectors[:, -7:]
    projected = (
        dense @ torch.linalg.lstsq(dense, sparse).solution
    )  # the span is what counts: eigenvalues repeat
    torch.testing.assert_close(projected, sparse, rtol=1e-6, atol=1e-7)
    walk = root[:, None] ** 2 * torch.tensor(graph.toarray())
    torch.testing.assert_close(walk @ sparse, sparse * values.flip(0)[:7], rtol=1e-6, atol=1e-8)


def test_neighbourhoods_grow_until_the_pieces_are_few() -> None:
    x = torch.cat([torch.rand(20, 2, generator=seeded(i)) + 5 * i for i in range(6)]).double().numpy()
    assert connected_components(affinity(x, 4, 6))[0] == 6
    assert connected_components(affinity(x, 4, 3))[0] <= 3


def test_the_scale_of_the_factors_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    w, h, scale = rng.random((30, 4)), rng.random((4, 20)), np.array([1e-3, 1.0, 50.0, 7.0])
    assert (assign(w, h) == assign(w * scale, h / scale[:, None])).all()
    assert len(set(assign(w, h).tolist())) > 1


# property and control


@pytest.mark.parametrize("landmarks", [10_000, 80])
@pytest.mark.parametrize("clusters", [5, (2, 9)])
def test_finds_groups_of_any_shape(clusters, landmarks) -> None:
    # two rings, one in the other, and three blobs: means alone would cut the rings up
    rng = seeded(0)
    angle = torch.rand(300, generator=rng) * 2 * math.pi
    ring = (
        torch.stack([angle.cos(), angle.sin()], 1) * torch.tensor([2.0, 6.0]).repeat_interleave(150)[:, None]
    )
    blobs = torch.randn(150, 2, generator=rng) * 0.3 + torch.tensor(
        [[12.0, 0], [0, 12], [12, 12]]
    ).repeat_interleave(50, 0)
    truth = torch.tensor([0, 1, 2, 3, 4]).repeat_interleave(torch.tensor([150, 150, 50, 50, 50]))
    x = torch.cat([ring + 0.1 * torch.randn(300, 2, generator=rng), blobs])
    found = diffusion_clusters(x, clusters, neighbours=15, landmarks=landmarks, rng=rng)
    assert agreement(found, truth) > 0.98


def agreement(found: Tensor, truth: Tensor) -> float:
    """Share of examples in a cluster whose majority is theirs, if clusters and groups are as many."""
    if len(found.unique()) != len(truth.unique()):
        return 0.0
    return sum(int(truth[found == k].bincount().max()) for k in found.unique()) / len(truth)


def test_the_budget_goes_where_the_damage_is() -> None:
    model = llama()
    pruned = llama()
    with torch.no_grad():  # damages tokens 20 to 39 alone: their embeddings
        pruned.model.embed_tokens.weight[20:] *= -1
    rows = torch.randint(20, (80, 12), generator=seeded(0)) + 20 * (torch.arange(80) % 2)[:, None]
    data = Data(torch.utils.data.TensorDataset(rows), CausalLM(), 16)
    counts = lambda _, batch: torch.nn.functional.one_hot(batch[0], VOCABULARY).float().mean(1)  # noqa: E731
    how = replace(PLAIN, budget=20, clusters=2, embed=counts)
    found = how.select(model, pruned, data, rng=seeded(0))
    assert (rows[found.positions, 0] >= 20).all()
    assert found.allocation.max() > 0.99
    control = replace(how, allocation="uniform").select(model, pruned, data, rng=seeded(0))
    assert int((rows[control.positions, 0] >= 20).sum()) == 10


def test_within_a_cluster_divergence_counts_per_logarithm_of_cost() -> None:
    model, data = llama(), answers()
    pruned = damaged(model)
    one = replace(PLAIN, clusters=lambda x: torch.zeros(len(x), dtype=torch.long))
    plain = one.select(model, pruned, data, rng=seeded(0))
    moved = plain.degradation
    largest = sorted(moved.argsort(descending=True)[:10].tolist())
    assert plain.positions.tolist() == largest  # all cost the same
    nothing = replace(one, cost=lambda batch: torch.ones(len(batch["input_ids"])))
    assert nothing.select(model, pruned, data, rng=seeded(0)).positions.tolist() == largest
    cost = torch.linspace(1, 8, 20).square()[torch.randperm(20, generator=seeded(1))].clamp(min=3)
    spent = iter(cost.split(8))
    found = replace(one, cost=lambda _: next(spent)).select(model, pruned, data, rng=seeded(0))
    assert found.positions.tolist() == sorted((moved / cost.log()).argsort(descending=True)[:10].tolist())
    assert found.positions.tolist() != sorted((moved / cost).argsort(descending=True)[:10].tolist())


def test_contradictions_are_passed_over_while_there_is_anything_else() -> None:
    model, data = llama(), answers()
    pruned = damaged(model)
    kinds = [{"a", "b"}, {"a", "c"}, {"b", "c"}]  # whichever two come first, the third contradicts them
    kind = {tuple(row["input_ids"].tolist()): i % 3 for i, row in enumerate(data.examples)}

    def concepts(example: dict[str, Tensor]) -> set[str]:
        return kinds[kind[tuple(example["input_ids"].tolist())]]

    how = PASER(budget=12, clusters=TWO, concepts=concepts)
    found = how.select(model, pruned, data, rng=seeded(0))
    assert len({int(i) % 3 for i in found.positions}) == 2
    assert found.rejected > 0
    assert found.rejection_rate == found.rejected / found.examined
    assert found.readmitted == 0
    off = replace(how, concepts=None).select(model, pruned, data, rng=seeded(0))
    assert len({int(i) % 3 for i in off.positions}) == 3
    assert off.rejection_rate == 0
    more = replace(how, budget=15).select(model, pruned, data, rng=seeded(0))
    assert more.readmitted == 15 - (20 - more.rejected) > 0


# limit


@pytest.mark.parametrize("budget", [1, 7, 20, 0.25, 1.0])
@pytest.mark.parametrize("concepts", [None, "phrases", lambda _: ["all", "alike"]])
def test_the_budget_is_always_met(budget, concepts) -> None:
    model, data = llama(), answers()
    found = PASER(budget=budget, clusters=3, concepts=concepts).select(
        model, damaged(model), data, rng=seeded(0)
    )
    assert len(found.positions.unique()) == (budget if isinstance(budget, int) else round(20 * budget))
    assert found.rejected == 0 or concepts is not None
    assert float(found.allocation.sum()) == pytest.approx(1)


def test_an_undamaged_model_gets_equal_shares_and_a_warning() -> None:
    model, data = llama(), answers()
    with pytest.warns(UserWarning, match="answer alike"):
        found = PLAIN.select(model, model, data, rng=seeded(0))
    assert found.allocation.tolist() == [0.5, 0.5]
    assert int((found.positions % 2).sum()) == 5


def test_whole_texts_and_classifiers() -> None:
    model = llama()
    whole = PLAIN.select(model, damaged(model), text(320), rng=seeded(0))
    first = {"input_ids": next(text(320).batches())[0]}
    assert reading(model, CausalLM(), first, hidden=True).asked.all()
    assert len(whole.positions) == 10
    net, data = points_world.model(), points_world.points()[0]
    other = Prune(budget=Global(0.7)).apply(net, data, rng=seeded(0))
    for kind in ("jsd", "kl", "loss"):
        found = replace(PLAIN, degradation=kind).select(net, other, data, rng=seeded(0))
        assert len(found.positions) == 10
    p, q = (m(data.examples[:][0]).softmax(-1) for m in (net, other))
    middle = (p + q) / 2
    jsd = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2
    torch.testing.assert_close(
        PLAIN.select(net, other, data, rng=seeded(0)).degradation.float(), jsd.detach(), rtol=1e-4, atol=1e-6
    )


def test_padding_changes_nothing() -> None:
    model = llama()
    pruned = damaged(model)
    short = [{k: v[:12] for k, v in row.items()} for row in answers(padding=4).examples]
    bare = Data([{"input_ids": r["input_ids"], "labels": r["labels"]} for r in short], CausalLM(), 8)
    a, b = (
        PASER(budget=10, clusters=3).select(model, pruned, d, rng=seeded(0))
        for d in (answers(padding=4), bare)
    )
    torch.testing.assert_close(a.degradation, b.degradation, rtol=1e-4, atol=1e-6)
    assert torch.equal(a.positions, b.positions)


def test_reads_the_meaning_of_the_prompt_alone() -> None:
    model = llama()
    rows = list(answers().examples)
    changed = [dict(row) for row in rows]
    for row in changed:
        row["input_ids"] = row["input_ids"].clone()
        row["input_ids"][6:] = 3
    first, second = (next(Data(r, CausalLM(), 8).batches()) for r in (rows, changed))
    with torch.no_grad():
        a, b = (reading(model, CausalLM(), batch, hidden=True).meaning() for batch in (first, second))
    torch.testing.assert_close(a, b)


def test_models_are_left_alone_and_any_encoder_will_do() -> None:
    model, data = llama(), answers()
    pruned = damaged(model).train()
    before, after = state(model), state(pruned)
    encoder = lambda _, batch: torch.nn.functional.one_hot(batch["input_ids"][:, 0] // 20, 2)  # noqa: E731
    how = PASER(budget=5, clusters=lambda x: x.argmax(1), embed=encoder)
    found = how.select(model, pruned, data, rng=seeded(0))
    assert found.clusters.tolist() == [int(r["input_ids"][0]) // 20 for r in data.examples]
    assert_untouched(model, before)
    assert_untouched(pruned, after)
    assert pruned.training


def test_clusters_of_duplicates_widen_the_neighbourhood() -> None:
    where = torch.tensor([0.0, 1.0, 10.0, 11.0]).repeat_interleave(20)
    x = where[:, None] * torch.tensor([[1.0, 2.0]])
    found = diffusion_clusters(x, 2, neighbours=5, landmarks=100, rng=seeded(0))
    assert torch.equal(found == found[0], where < 5)


def test_refuses() -> None:
    for make, match in (
        (partial(PASER, budget=0.0), "budget"),
        (partial(PASER, budget=1.5), "budget"),
        (partial(PASER, budget=0), "budget"),
        (partial(PASER, clusters=1), "clusters"),
        (partial(PASER, clusters=(5, 3)), "clusters"),
        (partial(PASER, neighbours=0), "neighbours"),
        (partial(PASER, landmarks=1), "landmarks"),
        (partial(PASER, degradation="l2"), "degradation must be"),
        (partial(PASER, allocation="most"), "allocation must be"),
        (partial(PASER, concepts="words"), "concepts"),
        (
            partial(PASER, clusters=TWO, neighbours=5),
            "neighbours=5 would do nothing since clusters is a function",
        ),
        (partial(PASER, clusters=TWO, landmarks=5), "landmarks=5 would do nothing"),
        (lambda: PLAIN.select(llama(), llama(), text(), rng=None), "torch.Generator"),
    ):
        with pytest.raises(InputError, match=match):
            make()
    model, data = llama(), answers()
    choose = partial(PLAIN.select, model, rng=seeded(0))
    with pytest.raises(InputError, match="there are 20"):
        replace(PLAIN, budget=21).select(model, model, data, rng=seeded(0))
    with pytest.raises(EmptyDataError):
        choose(model, data.subset([]))
    with pytest.raises(InputError, match="one vocabulary"):
        choose(Silent(VOCABULARY + 1), data)
    broken = llama()
    with torch.no_grad():
        broken.lm_head.weight[0] = math.nan
    with pytest.raises(InputError, match="not finite"):
        choose(broken, data)
    with pytest.raises(InputError, match="has no answer"):
        choose(model, answers(prompt=16))
    net = points_world.model()
    with pytest.raises(InputError, match="needs a task with token ids"):
        PASER(budget=5, clusters=2).select(net, net, points_world.points()[0], rng=seeded(0))
    with pytest.raises(InputError, match="too few for 20 clusters"):
        PASER(budget=5, clusters=20).select(model, damaged(model), data, rng=seeded(0))
    for x, match in (
        (torch.ones(9, 2), "all embeddings are equal"),
        (torch.full((9, 2), math.nan), "not finite"),
    ):
        with pytest.raises(InputError, match=match):
            diffusion_clusters(x, 2, neighbours=3, landmarks=9, rng=seeded(0))
    with pytest.raises(InputError, match="no Linear layer"):
        reading(Silent(VOCABULARY), CausalLM(), torch.zeros(1, 3), hidden=True)


class Silent(torch.nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return torch.zeros(*input_ids.shape, self.vocabulary)
