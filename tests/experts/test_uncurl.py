"""UNCURL: the clusters against the definition, the merge against hand-made averages, both routers, and what is refused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from sklearn.cluster import SpectralClustering

from tests.moe_models import EXPERTS, moe, text
from unweave import seeded
from unweave.errors import EmptyDataError, InputError
from unweave.experts import UNCURL
from unweave.experts._fold import fit_rows_
from unweave.experts._merge import aligned
from unweave.experts.uncurl import Alike, clustered, spectral
from unweave.models.moe import Tied, moe_layers, route_once, watching
from unweave.tasks import predict

DATA = text(160)


@lru_cache
def model(name: str = "qwen3-moe") -> Any:
    more = {"layer_types": ["full_attention"] * 2} if name == "gpt-oss" else {}
    return moe(name, num_hidden_layers=2, **more)


@lru_cache
def routed(name: str = "qwen3-moe") -> dict[str, Any]:
    """Block -> what it read and chose, all tokens."""
    seen: dict[str, list[Any]] = {}
    with watching(moe_layers(model(name)), lambda m, r: seen.setdefault(m.name, []).append(r)):
        predict(model(name), DATA)
    return {
        n: [torch.cat([getattr(r, f) for r in rs]) for f in ("hidden", "index", "logits")]
        for n, rs in seen.items()
    }


def test_affinity_and_usage_are_those_of_all_tokens() -> None:
    found = UNCURL(experts=3).choose(model(), DATA, rng=seeded(0))
    for read in moe_layers(model()):
        hidden, index, logits = routed()[read.name]
        z = logits.double()
        z = z - z.mean(1, keepdim=True)
        z = (z - z.mean(0)) / z.std(0, correction=0)
        expected = torch.zeros(EXPERTS, EXPERTS, dtype=torch.float64)
        for i in range(EXPERTS):
            for j in range(EXPERTS):
                expected[i, j] = 0 if i == j else (torch.cosine_similarity(z[:, i], z[:, j], dim=0) + 1) / 2
        part = Alike(read, "router logits")
        with watching([read], lambda _, r, part=part: part.add(r)):
            predict(model(), DATA)
        torch.testing.assert_close(part.affinity(), expected, rtol=1e-9, atol=1e-9)
        counts = torch.bincount(index.flatten(), minlength=EXPERTS).double()
        assert torch.equal(found.usage[read.name], counts)
        clusters = found.clusters[read.name]
        assert sorted(e for c in clusters for e in c) == list(range(EXPERTS))
        assert all(counts[c[0]] == counts[c].max() for c in clusters), "the reference is the most chosen"
        assert found.load[read.name] == max(float(counts[c].sum()) for c in clusters) / float(counts.sum())
        answers = Alike(read, "answers")
        with watching([read], lambda _, r, part=answers: part.add(r)):
            predict(model(), DATA)
        means = torch.stack([read.expert(e)(hidden).double().mean(0) for e in range(EXPERTS)]).detach()
        cosine = torch.cosine_similarity(means[2], means[5], dim=0)
        assert answers.affinity()[2, 5] == pytest.approx(float(1 + cosine) / 2, abs=1e-6)


def test_spectral_rows_and_clusters() -> None:
    a = torch.rand(9, 9, dtype=torch.float64, generator=seeded(3)) * 0.1
    for low in (0, 3, 6):
        a[low : low + 3, low : low + 3] += 0.8
    a = ((a + a.T) / 2).fill_diagonal_(0)
    degree = torch.diag(a.sum(1) ** -0.5)
    values, vectors = torch.linalg.eigh(torch.eye(9, dtype=torch.float64) - degree @ a @ degree)
    rows = spectral(a, 3)
    for i in range(9):
        own = vectors[i, :3] / vectors[i, :3].norm()
        assert torch.allclose(
            (rows[i] @ rows[0]).abs(), (own @ (vectors[0, :3] / vectors[0, :3].norm())).abs()
        )
    assert values[2] < values[3] - 0.3
    used = torch.arange(1.0, 10)
    theirs = SpectralClustering(3, affinity="precomputed", n_init=10, random_state=0).fit_predict(a.numpy())
    expected = sorted([i for i in range(9) if theirs[i] == c] for c in range(3))
    assert expected == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for how in ("spectral", "agglomerative", "k-means"):
        assert sorted(sorted(c) for c in clustered(a, used, 3, how, 7)) == expected  # type: ignore[arg-type]
    used[[1, 5]] = 0
    found = clustered(a, used, 3, "dominant", 7)
    assert sorted(c[0] for c in found) == [6, 7, 8], "the three most chosen"
    found = clustered(a, used, 3, "spectral", 7)
    assert sorted(sorted(c) for c in found) == expected
    assert all(c[-1] in (1, 5) for c in found if {1, 5} & set(c)), "those never chosen join last"
    used[2:] = 0
    assert len(clustered(a, used, 3, "spectral", 7)) == 3, "too few were chosen: all take part"


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss"])
def test_merged_weights_are_means_of_aligned_members_and_tokens_go_where_they_went(name: str) -> None:
    how = UNCURL(experts=3)
    merging = how.choose(model(name), DATA, rng=seeded(0))
    edited = how.carry_out(merging, model(name), DATA, rng=seeded(0))
    for read in moe_layers(model(name)):
        tied = next(m for m in edited.get_submodule(read.name).modules() if isinstance(m, Tied))
        usage, x = merging.usage[read.name], routed(name)[read.name][0][:20]
        for place, cluster in enumerate(merging.clusters[read.name]):
            assert [int(tied.places[e]) for e in cluster] == [place] * len(cluster)
            parts = [read.expert(e) for e in cluster]
            moved = [parts[0], *(aligned(parts[0], p) for p in parts[1:])]
            for part, own in zip(moved, parts, strict=True):
                torch.testing.assert_close(part(x), own(x), rtol=1e-4, atol=1e-5)
            total = max(float(usage[cluster].sum()), 1e-30)
            for field in ("gate", "up", "down", "down_bias"):
                if getattr(parts[0], field) is None:
                    continue
                mean = sum(
                    float(usage[e]) * getattr(p, field).double() for e, p in zip(cluster, moved, strict=True)
                )
                merged = getattr(read.layout.of(tied.experts, place), field)
                torch.testing.assert_close(merged.double(), mean / total, rtol=1e-5, atol=1e-6)


def test_folding_gives_a_plain_model_of_averaged_rows_that_transformers_reads(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    how = UNCURL(experts=4, router="fold", merge="equal")
    original = model("gpt-oss")
    merging = how.choose(original, DATA, rng=seeded(0))
    folded = how.carry_out(merging, original, DATA, rng=seeded(0))
    folded.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.num_local_experts == 4
    assert torch.equal(predict(again, DATA), predict(folded, DATA))
    read, new = moe_layers(original)[0], moe_layers(folded)[0]
    usage = merging.usage[read.name]
    clusters = sorted(merging.clusters[read.name], key=lambda c: c[0])
    bias, theirs = (dict(m.router.named_parameters())["bias"].detach() for m in (read, new))
    for place, cluster in enumerate(clusters):
        own = usage[cluster]
        expected = float((own / own.sum()).float() @ bias[cluster]) + float(
            (own.sum() * 4 / usage.sum()).log()
        )
        assert float(theirs[place]) == pytest.approx(expected, rel=1e-5)


def test_rows_are_fitted_only_where_the_fold_is_far_off_and_never_for_the_worse() -> None:
    small = moe("mixtral", num_hidden_layers=1)
    read = moe_layers(small)[0]
    x = torch.randn(200, read.width, generator=seeded(2))
    with torch.no_grad():
        target, choice = route_once(read, x)
        place = torch.arange(EXPERTS)
        assert fit_rows_(read, x, target, choice, place) == 0.0, "what fits is left alone"
        row = next(p for p in read.router.parameters(recurse=False))
        row.copy_(torch.randn(row.shape, generator=seeded(4)) * row.std())
        worse = float((route_once(read, x)[0] - target).norm() / target.norm())
    fitted = fit_rows_(read, x, target, choice, place)
    assert worse > 0.3
    assert fitted < 0.5 * worse


def test_other_features_alignments_and_means_differ_and_tuning_helps() -> None:
    base = {"experts": 2}
    sames: list[dict[str, Any]] = [
        {}, {"align": "activations"}, {"align": "none"}, {"merge": "max"}, {"merge": "equal"}, {"feature": "weights"},
    ]  # fmt: skip
    answers = [predict(UNCURL(**base | own).apply(model(), DATA, rng=seeded(0)), DATA) for own in sames]  # type: ignore[arg-type]
    for i, a in enumerate(answers):
        for b in answers[:i]:
            assert (a - b).abs().max() > 1e-3
    loss = lambda m: float(predict(m, DATA, DATA.task.losses).mean())  # noqa: E731
    plain = loss(UNCURL(**base).apply(model(), DATA, rng=seeded(0)))  # type: ignore[arg-type]
    tuned = UNCURL(**base, recover="lm", recover_epochs=6, recover_lr=0.01).apply(
        model(), DATA, rng=seeded(0)
    )  # type: ignore[arg-type]
    assert loss(tuned) < plain - 0.1


def test_refuses_what_cannot_be_merged() -> None:
    with pytest.raises(InputError, match="must be below 8.*nothing would be merged"):
        UNCURL(experts=8).apply(model(), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="from 2"):
        UNCURL(experts=1, router="fold").apply(model(), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="chooses groups"):
        UNCURL(experts=4, router="fold").apply(moe("deepseek-v3"), DATA, rng=seeded(0))
    with pytest.raises(InputError, match="weighs what its experts read"):
        UNCURL(experts=4).apply(moe("llama4"), DATA, rng=seeded(0))
    with pytest.raises(EmptyDataError):
        UNCURL(experts=4).apply(model(), DATA.subset([]), rng=seeded(0))
    for idle in ({"experts": 3, "memory": 0.5}, {"merge": "max", "align": "none"}, {"recover_lr": 0.1}):
        with pytest.raises(InputError, match="would do nothing"):
            UNCURL(**idle)  # type: ignore[arg-type]
