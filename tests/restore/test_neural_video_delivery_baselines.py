"""The baselines of delivery: who is trained on what, what is equal from stretch to stretch, what is sent."""

from __future__ import annotations

import pytest
import torch

from unweave import seeded
from unweave.embedded.clips import panned
from unweave.restore import EMT, NAS, SRVC, AwDNN, CaFM, LiveNAS
from unweave.restore import neural_video_delivery_baselines as baselines
from unweave.restore.delivery import Backbone, Encoding, Source
from unweave.restore.delivery.backbones import Modulated, folded, modulated_
from unweave.restore.delivery.delivery import coded_nets
from unweave.restore.delivery.patches import smaller

TINY = Backbone(name="espcn", blocks=2, width=8, residual=True)
WHOLE = {"cell": 6, "steps": 12, "lr": 5e-3, "backbone": TINY}
HOW = {"chunk_seconds": 0.08, **WHOLE}


@pytest.fixture(scope="module")
def source() -> Source:
    high = panned(6, 24, 32).frames
    return Source(smaller(high, 2), high, 2, 25.0)


def changed(made) -> list[float]:
    """Share of matrix weights that differ, from each network to the next."""
    states = [{k: t for k, t in net.state_dict().items() if t.ndim > 1} for net in made.nets]
    return [
        sum(int((a[k] != b[k]).sum()) for k in a) / sum(t.numel() for t in a.values())
        for a, b in zip(states, states[1:], strict=False)
    ]


def sent(made) -> list[int]:
    return [len(part) for part in coded_nets(made, Encoding(precision="fp16"), None)[0]]


def test_stretches_share_the_steps_and_each_sees_its_own_frames(source, monkeypatch) -> None:
    seen = []
    real = baselines.overfit_
    monkeypatch.setattr(
        baselines,
        "overfit_",
        lambda net, patches, **how: (
            seen.append((patches.places[:, 0].unique().tolist(), how["steps"])),
            real(net, patches, **how),
        )[1],
    )
    made = NAS(**HOW).overfit(source, rng=seeded(0))
    assert seen == [([0, 1], 4), ([2, 3], 4), ([4, 5], 4)]
    assert made.labels.flatten().tolist() == [0, 0, 1, 1, 2, 2]
    assert made.cell == (12, 16)
    seen.clear()
    one = AwDNN(**WHOLE).overfit(source, rng=seeded(0))
    assert seen == [([0, 1, 2, 3, 4, 5], 12)]
    assert len(one.nets) == 1
    seen.clear()
    LiveNAS(**HOW, share=1.0).overfit(source, rng=seeded(0))
    assert [frames for frames, _ in seen] == [[0, 1], [0, 1, 2, 3]], "nothing looks ahead"
    numbers = sum(p.numel() for p in one.nets[0].parameters())
    assert (AwDNN(**WHOLE).weights(6, 25, 2), NAS(**HOW).weights(6, 25, 2)) == (numbers, 3 * numbers)
    with pytest.raises(TypeError, match="chunk_seconds"):
        AwDNN(chunk_seconds=5.0)  # there is one stretch, so that nothing would read it


def test_cafm_shares_its_convolutions_and_sends_few_numbers_a_stretch(source) -> None:
    made = CaFM(**HOW).overfit(source, rng=seeded(0))
    first, second = (net.state_dict() for net in made.nets[:2])
    apart = {k for k in first if not torch.equal(first[k], second[k])}
    assert apart
    assert all(k.endswith(Modulated.OWN) for k in apart)
    sizes = sent(made)
    assert max(sizes[1:]) < sizes[0] / 5


def test_modulation_is_gain_and_offset_of_each_samples_own_stretch() -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1)
    wrapped, x = Modulated(conv, 3, 2), torch.randn(2, 2, 4, 4, generator=seeded(0))
    assert torch.equal(wrapped(x), conv(x)), "gamma begins at 0"
    with torch.no_grad():
        wrapped.a.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
        wrapped.b.copy_(torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 1.0]]))
        wrapped.gamma.copy_(torch.tensor([0.5, 2.0]))
    wrapped.at = torch.tensor([1, 0])
    z = conv(x)
    wanted = torch.stack([z[0] + 2 * (wrapped.a[1].view(3, 1, 1) * z[0] + wrapped.b[1].view(3, 1, 1)),
                          z[1] + 0.5 * (wrapped.a[0].view(3, 1, 1) * z[1] + wrapped.b[0].view(3, 1, 1))])  # fmt: skip
    assert torch.allclose(wrapped(x), wanted, atol=1e-6)
    net = modulated_(TINY.build(2), 1)
    assert sum(isinstance(m, Modulated) for m in net.modules()) == 2, "not the first, not the last of four"


def test_emt_and_srvc_move_the_share_they_say(source) -> None:
    made = EMT(**HOW, later=0.05, worst=0.5).overfit(source, rng=seeded(0))
    assert all(0 < share <= 0.052 for share in changed(made))
    sizes = sent(made)
    assert max(sizes[1:]) < sizes[0] / 2
    small = Backbone(name="srvc", blocks=1, width=4)
    adaptive = SRVC(**{**HOW, "backbone": small}, share=0.1).overfit(source, rng=seeded(0))
    assert all(0 < share <= 0.105 for share in changed(adaptive))


def test_emt_trains_on_the_hardest_patches(source, monkeypatch) -> None:
    seen = []
    real = baselines.overfit_
    monkeypatch.setattr(
        baselines,
        "overfit_",
        lambda net, patches, **how: (seen.append(patches), real(net, patches, **how))[1],
    )
    how = EMT(**{**HOW, "chunk_seconds": 9.0}, worst=0.25)
    how.overfit(source, rng=seeded(0))
    every = baselines._of_chunk(source, how, 0, 1)
    low, high, _ = every.read(torch.arange(len(every)))
    up = torch.nn.functional.interpolate(low, scale_factor=2, mode="bicubic")
    hard = ((up * 255).round().clamp(0, 255) / 255 - high).square().mean((1, 2, 3)).argsort(descending=True)
    chosen = {tuple(p) for p in seen[0].places.tolist()}
    assert len(chosen) == round(0.25 * len(every))
    assert len(chosen & {tuple(p) for p in every.places[hard[: len(chosen)]].tolist()}) >= len(chosen) - 1


def test_srvc_gives_every_block_a_kernel_of_its_own() -> None:
    net = folded(Backbone(name="srvc", blocks=1, width=4).build(2)).eval()
    torch.nn.init.normal_(net.body[-2].weight)
    x = torch.rand(1, 3, 12, 13, generator=seeded(0))
    with torch.no_grad():
        out = net(x)
        assert out.shape == (1, 3, 24, 26)
        seen = torch.nn.functional.avg_pool2d(
            torch.relu(net.look(torch.nn.functional.pad(x, (0, 2, 0, 3), mode="replicate"))), 5
        )
        kernel, bias = net.kernels(seen)[0, :, 1, 2].view(4, 3, 3, 3), net.biases(seen)[0, :, 1, 2]
        own = torch.nn.functional.conv2d(
            torch.nn.functional.pad(x, (1, 3, 1, 4), mode="replicate")[:, :, 5:12, 10:17], kernel, bias
        )
        held = []
        net.body[0].register_forward_hook(lambda _, given, __: held.append(given[0]))
        net(x)
    assert torch.allclose(held[0][0, :, 6:9, 11:12], own[0, :, 1:4, 1:2], atol=1e-5), "inside block (1, 2)"
