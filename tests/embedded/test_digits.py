"""The data set that needs no file: two parts that share nothing, with noise of the scale that was asked for."""

from __future__ import annotations

import torch

from unweave.embedded.digits import digits, of_tensors


def test_the_parts_share_no_example_and_leave_none_out() -> None:
    train, heldout = (part.examples.tensors for part in digits())  # type: ignore[attr-defined]
    assert (len(train[0]), len(heldout[0])) == (900, 897)
    # of 64 noisy pixels no two examples are alike
    assert len(torch.unique(torch.cat([train[0], heldout[0]]), dim=0)) == 1797
    assert torch.cat([train[1], heldout[1]]).bincount().tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180
    ]  # fmt: skip


def test_noise_is_of_its_scale_and_all_is_drawn_from_the_seed() -> None:
    clean, noisy, other = (
        digits(noise=noise, seed=seed, batch_size=7)[1] for noise, seed in ((0.0, 3), (0.2, 3), (0.2, 4))
    )
    assert noisy.batch_size == 7
    inputs, labels = clean.examples.tensors  # type: ignore[attr-defined]
    assert (float(inputs.min()), float(inputs.max())) == (0, 1)
    moved = noisy.examples.tensors[0] - inputs  # type: ignore[attr-defined]
    assert abs(float(moved.std()) - 0.2) < 0.005
    assert abs(float(moved.mean())) < 0.005
    assert torch.equal(noisy.examples.tensors[1], labels)  # type: ignore[attr-defined]
    again = digits(noise=0.2, seed=3)[1].examples.tensors[0]  # type: ignore[attr-defined]
    assert torch.equal(again, noisy.examples.tensors[0])  # type: ignore[attr-defined]
    assert not torch.equal(other.examples.tensors[1], labels)  # type: ignore[attr-defined]


def test_classes_are_counted_unless_given() -> None:
    inputs, labels = torch.zeros(3, 2), torch.tensor([0, 4, 1], dtype=torch.int32)
    assert of_tensors(inputs, labels).task.classes == 5
    assert of_tensors(inputs, labels, classes=9).task.classes == 9
    assert of_tensors(inputs, labels).examples[1][1].dtype == torch.int64
