"""What all unlearners of language models share: accumulation, adapters, masks, padding, half precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.language.world import FORGET, caught, gradient, llama, logits, nll, request
from unweave import seeded
from unweave.errors import EmptyDataError, InputError
from unweave.language import CEU, DPO, NPO, RMU, GradDiff, SimNPO
from unweave.language._tune import linear_names, student_of, warm_linear
from unweave.models.decoding import continued
from unweave.tasks import Classify
from unweave.tasks.language import Text, texts


@pytest.mark.parametrize(
    "make",
    [GradDiff.kl_minimisation, NPO, DPO, SimNPO, CEU, lambda **k: RMU(layer=1, **k)],
    ids=["kl", "npo", "dpo", "simnpo", "ceu", "rmu"],
)
def test_batches_read_in_pieces_give_the_same_step(make) -> None:
    model = llama(1)
    whole = gradient(caught(make(alpha=0.7), llama(0), request(batch_size=6)), model)
    found = caught(make(alpha=0.7, accumulate=3), llama(0), request(batch_size=2))
    assert len(found["data"].batches().__next__()) == 3
    pieces = gradient(found, model)
    assert (
        float((whole - pieces).norm() / whole.norm()) < 1e-10
    )  # float64; the largest batch is no approximation


def test_adapters_leave_the_weights_alone_and_end_merged() -> None:
    peft = pytest.importorskip("peft")
    start, data = llama(0, torch.float32), request()
    before = {n: t.clone() for n, t in start.state_dict().items()}
    found = caught(NPO(lora=2), start, data)
    student = found["student"]
    assert any(isinstance(m, peft.tuners.lora.LoraLayer) for m in student.modules())
    own = {p.data_ptr() for p in start.parameters()}
    moving = [p for g in found["optimizer"].param_groups for p in g["params"]]
    assert sum(p.numel() for p in moving) < 0.3 * sum(p.numel() for p in start.parameters())
    assert sum(p.data_ptr() in own for p in student.parameters()) == len(list(start.parameters()))
    edited = NPO(lora=2, lr=0.02, epochs=20, alpha=0.0).apply(start, data, rng=seeded(0))
    assert all(before[n].equal(t) for n, t in start.state_dict().items())
    assert all(p.requires_grad for p in [*start.parameters(), *edited.parameters()])
    assert not own & {p.data_ptr() for p in edited.parameters()}
    moved = [n for n, t in edited.state_dict().items() if not before[n].equal(t)]
    assert moved
    assert all("proj" in n for n in moved)
    rank = max(int(torch.linalg.matrix_rank(edited.state_dict()[n] - before[n], rtol=1e-4)) for n in moved)
    assert rank <= 2
    assert float(nll(edited, FORGET).detach()) > float(nll(start, FORGET).detach()) + 0.5


def test_pruned_weights_stay_pruned_with_adapters_too() -> None:
    pytest.importorskip("peft")
    model = llama(0, torch.float32)
    weight = model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[:, ::2] = 0
    for lora in (None, 2):
        edited = GradDiff(lora=lora, lr=0.01, epochs=2).apply(model, request(), rng=seeded(0))
        now = edited.model.layers[0].mlp.up_proj.weight
        assert not now[:, ::2].any()
        assert not now.equal(weight)


def test_what_is_written_answers_as_what_was_trained_where_weights_are_pruned() -> None:
    pytest.importorskip("peft")
    model = llama(0)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[:, ::2] = 0
    with student_of("x", model, 2, seeded(0)) as (student, finish):
        with torch.no_grad():
            for n, p in enumerate(q for q in student.parameters() if q.requires_grad):
                p.copy_(torch.randn(p.shape, generator=seeded(n)))
            trained, plain = (logits(m, FORGET[0])[0] for m in (student, model))
            assert float((trained - plain).abs().max()) > 0.1
            assert torch.allclose(logits(finish(), FORGET[0])[0], trained, atol=1e-9)


def test_the_rate_rises_over_the_first_epoch_and_falls_to_nothing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = warm_linear(optimizer, 6, 2), []
    for _ in range(6):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [warm_linear(optimizer, *size).lr_lambdas[0](1) for size in ((2, 1), (1, 1))] == [1.0, 0.0]


def test_what_is_no_text_is_refused() -> None:
    data = request()
    with pytest.raises(EmptyDataError, match="NPO"):
        NPO().apply(llama(), replace(data, retain=data.retain.subset([])), rng=seeded(0))
    with pytest.raises(InputError, match="needs a task that is Autoregressive"):
        NPO().apply(llama(), replace(data, forget=replace(data.forget, task=Classify(2))), rng=seeded(0))
    frozen = llama().requires_grad_(False)
    with pytest.raises(InputError, match="every parameter is frozen"):
        NPO().apply(frozen, data, rng=seeded(0))
    with pytest.raises(InputError, match="has nothing to predict"):
        Text([1, 2], 2)
    with pytest.raises(InputError, match="2 texts and 1 alternatives"):
        texts([Text([1, 2]), Text([1, 3])], alternatives=[Text([1, 2])])


def test_a_batch_of_texts_is_read_as_each_text_alone() -> None:
    model, data = llama(), request().forget
    losses = data.task.losses(model, next(data.batches()))
    for text, loss in zip(FORGET, losses, strict=True):
        z, y = logits(model, text)
        assert abs(float((loss - torch.nn.functional.cross_entropy(z, y)).detach())) < 1e-12


def test_texts_are_continued_as_each_would_be_alone() -> None:
    model = llama(0, torch.float32)
    prompts, lengths = [torch.tensor(t.ids[: t.prompt]) for t in FORGET], [3, 1, 4, 0, 2, 3]
    found = continued(model, prompts, lengths)
    for prompt, n, ids in zip(prompts, lengths, found, strict=True):
        whole = prompt.clone()
        for _ in range(n):
            whole = torch.cat([whole, model(whole[None]).logits[0, -1].argmax()[None]])
        assert ids.tolist() == whole[len(prompt) :].tolist()
    with pytest.raises(InputError, match="cannot be continued"):
        continued(model, [torch.empty(0, dtype=torch.long)], [1])


def test_the_output_layer_takes_no_adapter_whether_the_model_names_it_or_not() -> None:
    from torch import nn

    model = llama()
    named = linear_names(model)
    assert len(named) == sum(isinstance(m, nn.Linear) for m in model.modules()) - 1
    assert not any(model.get_submodule(name) is model.get_output_embeddings() for name in named)
    plain = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    assert linear_names(plain) == ["1"]
    assert linear_names(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))) == ["1"]
