"""The zoo is what it says: the same bits each time, small, readable by its task, with the traits it claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tests.zoo import Member
from unweave import Data
from unweave.embedded.nets import count_parameters
from unweave.random import global_seed

MODULES = [m for m in zoo.members() if m.kind != "pipeline"]
TEXTS = [m for m in MODULES if m.reads_text]
PIPELINES = zoo.members("pipeline")


def each(members: list[Member]) -> Any:
    return pytest.mark.parametrize("member", members, ids=str)


def modules(model: Any) -> dict[str, nn.Module]:
    """The modules of a pipeline by name, or the one of a model."""
    if isinstance(model, nn.Module):
        return {"": model}
    return {name: part for name, part in model.components.items() if isinstance(part, nn.Module)}


def bits(model: Any) -> dict[str, Tensor]:
    """Parameters, and buffers whether they are saved or not."""
    return {
        f"{part}.{name}": tensor.detach()
        for part, module in modules(model).items()
        for named in (module.named_parameters(), module.named_buffers())
        for name, tensor in named
    }


def assert_same(a: Any, b: Any) -> None:
    old, new = bits(a), bits(b)
    assert old.keys() == new.keys()
    assert not [name for name in old if not torch.equal(old[name], new[name])]


def losses(model: nn.Module, data: Data[Any]) -> Tensor:
    """Of every example, in the mode that the model is in."""
    with torch.no_grad():
        return torch.cat([data.task.losses(model, batch) for batch in data.batches()])


@each(zoo.members())
def test_is_made_of_the_same_bits_each_time(member: Member) -> None:
    before = torch.get_rng_state()
    first = member.build()
    assert torch.equal(before, torch.get_rng_state())
    assert_same(first, member.build())
    assert_same(first, member.model())
    assert any(
        not torch.equal(a, b)
        for a, b in zip(bits(first).values(), bits(member.build(1)).values(), strict=True)
    )
    assert not any(m.training for part in modules(first).values() for m in part.modules())


@each(zoo.members())
def test_hands_out_models_that_share_nothing(member: Member) -> None:
    changed = member.model()
    with torch.no_grad():
        for tensor in bits(changed).values():
            tensor.zero_()
    assert_same(member.model(), member.build())


@each(zoo.members())
def test_is_small(member: Member) -> None:
    count = sum(count_parameters(module) for module in modules(member.model()).values())
    assert 500 < count < (400_000 if member.kind == "pipeline" else 20_000)


@each(MODULES)
def test_is_read_by_its_task(member: Member) -> None:
    model, data = member.model(), member.data(10)
    assert [len(data.task.losses(model, batch)) for batch in data.batches()] == [4, 4, 2]
    whole = losses(model, data)
    assert whole.isfinite().all()
    assert whole.std() > 0, "answers the same to everything"
    outputs = [data.task.outputs(model, batch) for batch in data.batches()]
    assert [len(out) for out in outputs] == [4, 4, 2]
    assert torch.cat(outputs).isfinite().all()
    assert losses(model.to(torch.bfloat16), data).isfinite().all()


@each(MODULES)
def test_every_parameter_learns(member: Member) -> None:
    model, data = member.model(), member.data(12, batch_size=12)
    (batch,) = data.batches()
    for _ in range(2):  # an adapter's first factor has no gradient before its second has moved
        model.zero_grad()
        data.task.losses(model, batch).mean().backward()
        free = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for p in free.values():
                assert p.grad is not None
                p -= 1e-3 * p.grad
    assert free
    assert not [name for name, p in free.items() if not p.grad.isfinite().all() or not p.grad.any()]


@each(MODULES)
def test_can_be_taught_its_examples(member: Member) -> None:
    model, data = member.model(), member.data(24, batch_size=24)
    before = losses(model, data).mean()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(20):
        (batch,) = data.batches()
        optimizer.zero_grad()
        data.task.losses(model, batch).mean().backward()
        optimizer.step()
    assert losses(model, data).mean() < 0.95 * before


@each(MODULES)
def test_request_has_padded_and_whole_texts_of_every_class(member: Member) -> None:
    request = member.request()
    assert [len(part) for part in (request.forget, request.retain, request.heldout)] == [6, 18, 12]
    assert losses(member.model(), request.forget).isfinite().all()
    for part in (request.forget, request.retain, request.heldout):
        if hasattr(part.task, "labels") and member.kind.startswith("classifier"):
            labels = torch.cat([part.task.labels(batch) for batch in part.batches()])
            assert labels.bincount().tolist() == [len(part) // 3] * 3
        if member.reads_text:
            whole = [bool(row["attention_mask"].all()) for row in part.examples]
            assert any(whole)
            assert not all(whole)


def of(
    kinds: type | tuple[type, ...], true: Callable[[Any], bool] = lambda m: True
) -> Callable[[nn.Module], bool]:
    """Whether a model has a module of these kinds of which something is true."""
    return lambda model: any(isinstance(m, kinds) and true(m) for m in model.modules())


def conv1d(model: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return of(Conv1D)(model)


def adapters(model: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(model, PeftModel)


def fused(model: nn.Module) -> bool:
    plain = of((nn.Conv1d, nn.ConvTranspose1d))
    return any(
        p.ndim == 3 and len(p) > 1
        for m in model.modules()
        if not plain(m)
        for p in m.parameters(recurse=False)
    )


def grouped(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", 0)
    return getattr(config, "num_key_value_heads", heads) < heads


def drops(model: nn.Module, data: Data[Any]) -> bool:
    """Whether it answers otherwise under another seed in train mode, normalisation apart."""
    for module in model.train().modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eval()
    answers = []
    for seed in (0, 1):
        with global_seed(seed):
            answers.append(losses(model, data))
    return not torch.equal(*answers)


def refuses_deepcopy(model: nn.Module) -> bool:
    try:
        deepcopy(model)
    except RuntimeError:
        return True
    return False


STRUCTURE: dict[str, Callable[[Any], bool]] = {
    "adapters": adapters,
    "batch norm": of((nn.BatchNorm1d, nn.BatchNorm2d)),
    "conv1d": conv1d,
    "depthwise": of(nn.Conv2d, lambda conv: conv.groups == conv.in_channels > 1),
    "frozen": lambda model: not all(p.requires_grad for p in model.parameters()),
    "fused experts": fused,
    "grouped queries": grouped,
    "padding_idx": of(
        nn.Embedding,
        lambda table: table.padding_idx is not None and not table.weight[table.padding_idx].any(),
    ),
    "parametrised": of(nn.Module, nn.utils.parametrize.is_parametrized),
    "recurrent": of(nn.LSTM),
    "refuses deepcopy": refuses_deepcopy,
    "tied": lambda model: (
        len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False)))
    ),
}


@each(MODULES)
def test_traits_are_facts(member: Member) -> None:
    pytest.importorskip("peft", reason="the language extra is not installed")
    found = {trait for trait, true in STRUCTURE.items() if true(member.build())}
    if drops(member.build(), member.data(8)):
        found.add("dropout")
    if member.reads_text:
        right, left = (losses(member.build(), member.data(8, padding=side)) for side in ("right", "left"))
        if (right - left).abs().max() > 1e-5:
            found.add("absolute positions")
    assert found == member.traits


@each(PIPELINES)
def test_traits_of_pipelines_are_facts(member: Member) -> None:
    scheduler = member.model().scheduler
    found = {"flow"} if not hasattr(scheduler, "alphas_cumprod") else set()
    if scheduler.config.get("prediction_type") == "v_prediction":
        found.add("v-prediction")
    assert found == member.traits


def test_every_trait_is_somebodys() -> None:
    assert {trait for member in zoo.ZOO for trait in member.traits} == set(zoo.TRAITS)
    assert len({member.name for member in zoo.ZOO}) == len(zoo.ZOO)


def test_members_are_chosen_by_kind_and_trait() -> None:
    assert [m.name for m in zoo.members("causal LM", having=("tied", "conv1d"))] == ["gpt2"]
    assert {m.kind for m in zoo.members("classifier", lacking="batch norm")} == {
        "classifier of vectors", "classifier of images", "classifier of series", "classifier of texts",
    }  # fmt: skip
    assert not any("tied" in m.traits for m in zoo.members("causal LM", lacking="tied"))
    for bad in ({"kind": "clasifier"}, {"having": "gated"}, {"kind": "seq2seq", "having": "recurrent"}):
        with pytest.raises(ValueError, match="kinds are|no member"):
            zoo.members(**bad)


def test_refuses_data_that_a_member_does_not_read() -> None:
    with pytest.raises(ValueError, match="is a pipeline"):
        PIPELINES[0].data()
    with pytest.raises(ValueError, match="reads no text"):
        zoo.members("classifier of images")[0].data(padding="left")


def alone(data: Data[Any]) -> list[Data[Any]]:
    """Each text by itself, without its padding."""
    rows = [data.examples[i] for i in range(len(data))]
    texts = ("input_ids", "attention_mask")
    return [
        replace(
            data, examples=[{k: v[row["attention_mask"] == 1] if k in texts else v for k, v in row.items()}]
        )
        for row in rows
    ]


@each([m for m in TEXTS if m.kind != "contrastive"])  # whose losses compare the examples of a batch
@pytest.mark.parametrize("padding", ["right", "left"])
def test_padding_changes_no_loss(member: Member, padding: zoo.Padding) -> None:
    model, data = member.model(), member.data(12, padding=padding)
    batched, single = losses(model, data), torch.cat([losses(model, one) for one in alone(data)])
    whole = torch.tensor([bool(row["attention_mask"].all()) for row in data.examples])
    assert whole.sum() >= 3
    assert not whole.all()
    torch.testing.assert_close(batched[whole], single[whole], atol=1e-5, rtol=0)
    if padding == "right" or "absolute positions" not in member.traits:
        torch.testing.assert_close(batched, single, atol=1e-5, rtol=0)


@each([m for m in MODULES if m.library == "transformers"])
def test_goes_through_a_folder_of_transformers(member: Member, tmp_path: Path) -> None:
    model = member.model()
    model.save_pretrained(tmp_path)
    back = type(model).from_pretrained(tmp_path, local_files_only=True)
    assert_same(model, back)
    assert torch.equal(losses(model, member.data(8)), losses(back, member.data(8)))
    assert count_parameters(model) == count_parameters(back), "tied weights came apart"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # as in the zoo
@each(zoo.members(having="adapters"))
def test_goes_through_a_folder_of_peft(member: Member, tmp_path: Path) -> None:
    from peft import PeftModel

    model = member.model()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(member.model().unload(), tmp_path)
    assert_same(model, back)


@each(PIPELINES)
def test_pipeline_draws_and_goes_through_a_folder_of_diffusers(member: Member, tmp_path: Path) -> None:
    pipeline = member.model()
    images = zoo.draw(pipeline)
    assert images.shape == (2, 3, 16, 16)
    assert images.isfinite().all()
    assert (images[0] - zoo.draw(pipeline, zoo.PROMPTS[1:])).abs().max() > 0, "the prompt leads nowhere"
    pipeline.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == type(pipeline).__name__
    back = type(pipeline).from_pretrained(tmp_path, local_files_only=True)
    back.set_progress_bar_config(disable=True)
    assert_same(pipeline, back)
    assert torch.equal(images, zoo.draw(back))
