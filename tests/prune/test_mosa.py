from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import Linear, Module, ReLU, Sequential

from tests.contract import world
from unweave import Data, seeded
from unweave.errors import EmptyDataError, InputError
from unweave.prune import MoSA
from unweave.prune.mosa import Adapted, SplitAdapter
from unweave.tasks import predict


class Net(Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem, self.mlp, self.head = (
                Linear(8, 12),
                Sequential(Linear(12, 12), ReLU(), Linear(12, 12)),
                Linear(12, 3),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        return self.head(h + self.mlp(h))


class Unlabelled:
    def losses(self, model: Module, batch: object) -> torch.Tensor:
        raise AssertionError

    outputs = losses


HERE = partial(MoSA, targets="mlp", head=r"head\..*", rank=6, epochs=4, lr=0.02, scale=1.0)


def adapter(pieces: int = 4, width: int = 5, rank: int = 3) -> SplitAdapter:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SplitAdapter(width, rank, pieces, 1.0, 0.0)
        with torch.no_grad():
            for up, bias, keep in zip(made.up, made.bias, made.keep, strict=True):
                up.copy_(torch.randn_like(up) * keep)
                bias.copy_(torch.randn_like(bias))
    return made


def test_pieces_are_disjoint_and_complete() -> None:
    keep = adapter().keep  # 15 entries in 4 pieces
    assert torch.equal(keep.sum(0), torch.ones(5, 3, dtype=torch.long))
    assert sorted(keep.sum((1, 2)).tolist()) == [3, 4, 4, 4]


def test_merged_is_the_mean_over_all_pieces() -> None:
    made, x = adapter(), torch.randn(7, 5, generator=seeded(0))
    inner = torch.nn.functional.gelu(made.down(made.norm(x)))
    each = [torch.nn.functional.linear(inner, made.up[k] * made.keep[k], made.bias[k]) for k in range(4)]
    made.merge_()
    made.eval()
    torch.testing.assert_close(made(x), torch.stack(each).mean(0))
    again = made.up[0].clone()
    made.merge_()
    assert torch.equal(made.up[0], again)
    plain = adapter(pieces=1)
    assert {n: p.shape for n, p in made.named_parameters()} == {
        n: p.shape for n, p in plain.named_parameters()
    }


def test_training_draws_pieces_and_eval_needs_the_merge() -> None:
    made, x = adapter(), torch.randn(7, 5, generator=seeded(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outs = {tuple(made(x).flatten().tolist()) for _ in range(40)}
    assert len(outs) == 4
    made.eval()
    with pytest.raises(InputError, match="must be merged"):
        made(x)


def test_only_the_drawn_piece_has_gradients_and_only_its_own_entries() -> None:
    made, x = adapter(), torch.randn(7, 5, generator=seeded(0))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made(x).square().sum().backward()
    drawn = [k for k in range(4) if made.up[k].grad is not None]
    assert len(drawn) == 1
    assert [k for k in range(4) if made.bias[k].grad is not None] == drawn
    assert made.up[drawn[0]].grad.any()
    assert not made.up[drawn[0]].grad[~made.keep[drawn[0]]].any()


def test_pieces_that_no_step_draws_keep_their_bits_under_decay_and_momentum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: dict[str, torch.Tensor] = {}
    ended: dict[str, torch.Tensor] = {}

    class Filled(MoSA):
        def insert(self, model: Module, data: Data, *, rng: torch.Generator) -> Module:
            made = super().insert(model, data, rng=rng)
            for n, p in made.named_parameters():
                if ".up." in n:
                    torch.nn.init.ones_(p)
                    started[n] = p
            return made

    def merge_(self: SplitAdapter) -> None:
        ended.update({n: p.detach().clone() for n, p in started.items()})
        merged(self)

    merged = SplitAdapter.merge_
    monkeypatch.setattr(SplitAdapter, "merge_", merge_)
    data = world.points()[0]
    steps = 2
    edit = Filled(
        targets="mlp",
        head="",
        pieces=8,
        rank=6,
        reg_weight=0.0,
        dropout=0.0,
        epochs=1,
        lr=0.01,
        weight_decay=0.5,
    )
    edit.adapt(Net(), data.subset(range(steps * data.batch_size)), rng=seeded(0))
    moved = [n for n, p in ended.items() if not torch.equal(p, torch.ones_like(p))]
    assert 1 <= len(moved) <= steps
    assert len(ended) == 8


def test_weights_of_one_kind_do_not_load_into_the_other() -> None:
    pieces, merged = adapter(), adapter()
    merged.merge_()
    with pytest.raises(InputError, match="this one is in pieces"):
        adapter().load_state_dict(merged.state_dict())
    with pytest.raises(InputError, match="this one is merged"):
        merged.load_state_dict(pieces.state_dict())
    twin = adapter()
    twin.load_state_dict(pieces.state_dict())
    assert torch.equal(twin.keep, pieces.keep)


def test_adapts_without_touching_the_backbone() -> None:
    model, data = Net(), world.points()[0]
    before = deepcopy(model.state_dict())
    adapted = HERE().adapt(model, data, rng=seeded(0))
    after = adapted.state_dict()
    for name, value in before.items():
        now = after[name.replace("mlp.", "mlp.layer.") if name.startswith("mlp") else name]
        assert torch.equal(model.state_dict()[name], value)
        assert torch.equal(now, value) is not name.startswith("head")
    assert all(p.requires_grad for p in adapted.parameters())
    assert predict(adapted, data).shape == (90, 3)
    again = HERE().adapt(model, data, rng=seeded(0))
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), again.parameters(), strict=True))


def test_one_piece_without_divergence_is_the_plain_adapter() -> None:
    model, data = Net(), world.points()[0]
    how = HERE(pieces=1, reg_weight=0.0, dropout=0.0)
    adapted = how.adapt(model, data, rng=seeded(3))
    plain = how.insert(model, data, rng=_child(3))
    for name, p in plain.named_parameters():
        p.requires_grad_("adapter" in name or name.startswith("head"))
    from unweave import fit_
    from unweave.fit import Loop
    from unweave.fit.recipe import mean_loss, warm_cosine

    optimizer = torch.optim.AdamW([p for p in plain.parameters() if p.requires_grad], 0.02, weight_decay=0.01)
    rng = seeded(3)
    torch.randint(2**62, (), generator=rng)
    fit_(
        plain,
        data,
        mean_loss(data),
        optimizer,
        epochs=4,
        rng=rng,
        loop=Loop(schedule=warm_cosine(optimizer, 24)),
    )
    assert torch.equal(plain.mlp.adapter.up[0], adapted.mlp.adapter.up[0])


def _child(seed: int) -> torch.Generator:
    from unweave.random import child

    return child(seeded(seed))


def test_the_loss_is_the_papers() -> None:
    model, data = HERE(dropout=0.0).insert(Net(), world.points()[0], rng=seeded(0)), world.points()[0]
    batch = next(data.batches())
    with torch.no_grad():
        for p in model.mlp.adapter.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=seeded(1)))
    model.train()

    def with_draws(work):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            return work()

    loss = with_draws(lambda: HERE(dropout=0.0, add_weight=0.5, reg_weight=2.0).objective(data)(model, batch))
    z1, z2 = with_draws(lambda: (model(batch[0]), model(batch[0])))
    assert not torch.equal(z1, z2)
    p, q = z1.softmax(1), z2.softmax(1)
    kl = ((p * (p / q).log()).sum(1).mean() + (q * (q / p).log()).sum(1).mean()) / 2
    ce = torch.nn.functional.cross_entropy
    torch.testing.assert_close(loss, ce(z1, batch[1]) + 0.5 * ce(z2, batch[1]) + 2 * kl)
    # each divergence pulls one pass's answers towards those of the other, which stay as they are
    pulled = (
        (q.detach() * (q.detach() / p).log()).sum(1) + (p.detach() * (p.detach() / q).log()).sum(1)
    ).mean()
    naive = ce(z1, batch[1]) + 0.5 * ce(z2, batch[1]) + pulled
    bias = model.mlp.adapter.down.bias
    found, expected = (torch.autograd.grad(value, bias)[0] for value in (loss, naive))
    torch.testing.assert_close(found, expected)


def test_adapts_a_vit_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from unweave.embedded.digits import of_tensors

    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = transformers.ViTForImageClassification(config)
    data = of_tensors(torch.randn(20, 1, 8, 8, generator=seeded(0)), torch.arange(20) % 3, batch_size=10)
    adapted = MoSA(rank=4, epochs=1).adapt(vit, data, rng=seeded(0))
    assert sum(isinstance(m, Adapted) for m in adapted.modules()) == 2
    assert predict(adapted, data).shape == (20, 3)


def test_refuses() -> None:
    data = world.points()[0]
    for bad in ({"pieces": 0}, {"rank": 0}, {"dropout": 1.0}, {"reg_weight": -1.0}, {"lr": 0.0}):
        with pytest.raises(InputError, match="MoSA." + next(iter(bad))):
            MoSA(**bad)
    with pytest.raises(InputError, match="names no module"):
        HERE(targets="nothing").adapt(Net(), data, rng=seeded(0))
    with pytest.raises(InputError, match="same width"):
        HERE(targets="stem").adapt(Net(), data, rng=seeded(0))
    with pytest.raises(InputError, match=r"'head\\\\..\*x' names no parameter, .* the last are .*head.bias"):
        HERE(head=r"head\..*x").adapt(Net(), data, rng=seeded(0))
    with pytest.raises(InputError, match="MoSA needs a task that is Labelled"):
        HERE().adapt(Net(), replace(data, task=Unlabelled()), rng=seeded(0))
    with pytest.raises(EmptyDataError):
        HERE().adapt(Net(), data.subset([]), rng=seeded(0))
