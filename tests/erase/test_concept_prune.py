from __future__ import annotations

import pytest
import torch

from tests.erase.pipelines import CONCEPTS, KINDS, pipeline
from unweave import seeded
from unweave.erase import ConceptPrune
from unweave.erase.concept_prune import skilled_weights
from unweave.errors import InputError

SMALL = ConceptPrune(density=0.1, steps=4, record=2, guidance=3.0)


def test_skilled_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, 0.0], [4.0, 1.0, 1.0, 0.0]])
    on, off = torch.tensor([2.0, 2.0, 1.0, 9.0]), torch.tensor([1.0, 3.0, 0.5, 0.0])
    # |W| on: rows 2, 4, 3, 0 and 8, 2, 1, 0; two a row; the second input is excited less than by base prompts
    assert skilled_weights(weight, on, off, 0.5).tolist() == [
        [False, False, True, False],
        [True, False, False, False],
    ]


def test_at_least_one_a_row_and_none_that_base_prompts_excite_as_much() -> None:
    weight, on = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([2.0, 2.0, 1.0])
    few = skilled_weights(weight, on, torch.tensor([1.0, 1.0, 1.0]), 0.01)
    assert few.tolist() == [[False, True, False], [False] * 3]  # no zero is skilled
    assert not skilled_weights(weight, on, on, 1.0).any()
    most = skilled_weights(
        weight, on, torch.tensor([1.0, 2.0, 0.5]), 0.99
    )  # int(0.99 * 3) = 2: of 2, 4, 3 the last two
    assert most.tolist() == [[False, False, True], [False] * 3]


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_naive_union_over_steps_and_concepts(kind) -> None:
    model, rng = pipeline(kind), seeded(0)
    noise = model.noise(1, seeded(0))
    layers = model.linears("ff_out")
    naive = {name: torch.zeros_like(w.weight, dtype=torch.bool) for name, w in layers.items()}
    for concept in CONCEPTS.erase:
        norms = []
        for prompts in (CONCEPTS.prompts(concept), CONCEPTS.base_prompts(concept)):
            inputs: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
            hooks = [
                w.register_forward_hook(lambda _, args, __, kept=inputs[n]: kept.append(args[0].chunk(2)[1]))
                for n, w in layers.items()
            ]
            model.sample(prompts, steps=4, guidance=3.0, noise=noise.expand(len(prompts), -1, -1, -1), stop=2)
            for hook in hooks:
                hook.remove()
            norms.append({n: [x.flatten(0, -2).norm(dim=0) for x in xs] for n, xs in inputs.items()})
        for name, layer in layers.items():
            for on, off in zip(norms[0][name], norms[1][name], strict=True):
                for i, row in enumerate(layer.weight.detach().abs() * on):
                    for j in row.argsort(descending=True)[: int(0.1 * len(row))]:
                        naive[name][i, j] |= on[j] > off[j]
    found = SMALL.find(model, CONCEPTS, rng=rng)
    same = sum(int((~found.keep[f"denoiser.{n}.weight"] == m).sum()) for n, m in naive.items())
    assert same >= 0.999 * sum(m.numel() for m in naive.values())  # ties of rounding
    assert any(m.any() for m in naive.values())


def test_batches_make_no_difference() -> None:
    model = pipeline()
    whole = SMALL.find(model, CONCEPTS, rng=seeded(0))
    parts = ConceptPrune(density=0.1, steps=4, record=2, guidance=3.0, batch_size=1).find(
        model, CONCEPTS, rng=seeded(0)
    )
    assert whole.iou(parts) > 0.999


def test_zeroes_and_leaves_the_rest() -> None:
    model = pipeline()
    edited, found = SMALL.apply(model, CONCEPTS, rng=seeded(0)), SMALL.find(model, CONCEPTS, rng=seeded(0))
    for name, weight in model.named_parameters():
        alive = found.keep.get(name, torch.ones_like(weight, dtype=torch.bool))
        assert torch.equal(edited.get_parameter(name), weight * alive)
    assert 0.01 < 1 - found.density() < 0.4


def test_refuses() -> None:
    with pytest.raises(
        InputError, match="density must be above 0 and at most 1; got 1.5. It is a share of each row"
    ):
        ConceptPrune(density=1.5)
    with pytest.raises(InputError, match="record must be at most steps = 4"):
        ConceptPrune(record=5, steps=4)
    with pytest.raises(InputError, match="batch_size"):
        ConceptPrune(batch_size=0)
    model = pipeline()
    with torch.no_grad():
        for layer in model.linears("ff_out").values():
            layer.weight.zero_()
    with pytest.raises(InputError, match="no skilled weight"):
        SMALL.apply(model, CONCEPTS, rng=seeded(0))
