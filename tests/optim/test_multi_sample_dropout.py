from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn import BatchNorm1d, Linear, Sequential

from unweave import seeded
from unweave.errors import InputError
from unweave.optim import MultiSampleDropout

X = torch.randn(5, 6, generator=seeded(0)).requires_grad_()
Y = torch.arange(5) % 3


def head() -> Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Linear(6, 3)


def with_seed(work, seed: int = 1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return work()


def test_one_sample_is_ordinary_dropout() -> None:
    layer = head()
    mine = with_seed(lambda: MultiSampleDropout(layer, p=0.4, samples=1)(X))
    theirs = with_seed(lambda: layer(F.dropout(X, 0.4, training=True)))
    assert torch.equal(mine[0], theirs)


def test_eval_is_the_plain_head() -> None:
    layer = head()
    assert torch.equal(MultiSampleDropout(layer, p=0.4).eval()(X), layer(X))


def test_the_loss_and_gradient_are_means_over_the_masks() -> None:
    layer = head()
    module = MultiSampleDropout(layer, p=0.4, samples=4)
    loss = with_seed(lambda: module.loss(X, Y))
    answers = with_seed(lambda: module(X))
    each = [F.cross_entropy(a, Y, reduction="none") for a in answers]
    torch.testing.assert_close(loss, torch.stack(each).mean(0))
    whole = torch.autograd.grad(loss.mean(), layer.weight)[0]
    parts = [torch.autograd.grad(e.mean(), layer.weight, retain_graph=True)[0] for e in each]
    torch.testing.assert_close(whole, torch.stack(parts).mean(0))


def test_masks_differ_between_copies_and_examples() -> None:
    module = MultiSampleDropout(torch.nn.Identity(), p=0.5, samples=8)
    masks = with_seed(lambda: module(torch.ones(20, 30)) != 0)
    rows = {tuple(r) for r in masks.flatten(0, 1).tolist()}
    assert len(rows) == 160
    assert float(masks.float().mean()) == pytest.approx(0.5, abs=0.03)


def test_averaging_logits_is_another_and_smaller_loss() -> None:
    module = MultiSampleDropout(head(), p=0.7, samples=8)
    losses = [with_seed(lambda a=a: module.loss(X, Y, average=a)).mean() for a in ("logits", "loss")]
    assert losses[0] < losses[1]


def test_gradients_are_less_noisy_by_the_number_of_samples() -> None:
    layer = head()

    def noise(samples: int) -> float:
        module = MultiSampleDropout(layer, p=0.5, samples=samples)
        draws = [
            torch.autograd.grad(with_seed(lambda: module.loss(X, Y).mean(), s), layer.weight)[0]
            for s in range(400)
        ]
        return float(torch.stack(draws).var(0).sum())

    assert noise(1) / noise(8) == pytest.approx(8, rel=0.25)


def test_refuses() -> None:
    for settings in ({"p": 1.0}, {"p": -0.1}, {"samples": 0}):
        with pytest.raises(InputError, match=next(iter(settings))):
            MultiSampleDropout(head(), **settings)
    with pytest.raises(InputError, match="batch normalisation"):
        MultiSampleDropout(Sequential(BatchNorm1d(6), head()))
    with pytest.warns(UserWarning, match="all copies are alike") as told:
        MultiSampleDropout(head(), p=0.0)
    assert told[0].filename == __file__


@pytest.mark.parametrize("average", ["loss", "logits"])
def test_each_average_by_hand(average: str) -> None:
    module = MultiSampleDropout(head(), p=0.4, samples=3)
    answers = with_seed(lambda: module(X)).detach()
    shares = answers.log_softmax(-1) if average == "loss" else answers.mean(0).log_softmax(-1)[None]
    expected = -shares[:, torch.arange(5), Y].mean(0)
    torch.testing.assert_close(with_seed(lambda: module.loss(X, Y, average=average)).detach(), expected)


def test_the_loss_in_eval_mode_is_the_plain_heads() -> None:
    module = MultiSampleDropout(head(), p=0.4, samples=3).eval()
    for average in ("loss", "logits"):
        found = module.loss(X, Y, average=average)
        torch.testing.assert_close(found, F.cross_entropy(module.head(X), Y, reduction="none"))


def test_features_of_many_dimensions_and_a_loss_of_ones_own() -> None:
    module = MultiSampleDropout(Sequential(torch.nn.Flatten(), Linear(12, 3)), p=0.5, samples=4)
    x = torch.rand(5, 3, 2, 2)
    assert module(x).shape == (4, 5, 3)
    told = module.loss(x, Y, lambda z, y, reduction: z[:, 0] + y)
    assert told.shape == (5,)
    module.eval()
    assert module(x).shape == (5, 3)


def test_no_batch_statistics_in_the_head_of_any_kind_and_others_pass() -> None:
    for norm in (
        torch.nn.BatchNorm1d(6, track_running_stats=False),
        torch.nn.InstanceNorm1d(6),
        torch.nn.SyncBatchNorm(6),
    ):
        with pytest.raises(InputError, match="batch normalisation"):
            MultiSampleDropout(Sequential(norm, head()))
    MultiSampleDropout(Sequential(torch.nn.LayerNorm(6), head()))


def test_another_average_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match='loss.average must be "loss" or "logits"; got .* Did you mean "logits"'
    ):
        MultiSampleDropout(head()).loss(X, Y, average="logit")
