"""The patch discriminator of `DoCo`, in the size that the latents allow."""

from __future__ import annotations

from torch.nn import BatchNorm2d, Conv2d, LeakyReLU, Module, Sequential


def patch_critic(channels: int, height: int, width: int) -> Sequential:
    """Tell latents apart, patch by patch: [n, channels, height, width] -> logits [n, 1, h, w].

    Convolutions of kernel 4 and stride 2 with 64, 128, 256 and 512 channels, batch norm in all but the first, leaky
    ReLU; then one of kernel 4 to a logit. Of those four there are as many as leave at least two positions a side:
    all four from 32 on (64 x 64 give the paper's 3 x 3 logits), two at 8 x 8 (one logit), one at 4 x 4.
    """
    layers: list[Module] = []
    side, inner = min(height, width), channels
    for i, outer in enumerate((64, 128, 256, 512)):
        if i and side < 4:
            break
        layers += [Conv2d(inner, outer, 4, stride=2, padding=1)]
        layers += [BatchNorm2d(outer)] if i else []
        layers += [LeakyReLU(0.2)]
        side, inner = side // 2, outer
    return Sequential(*layers, Conv2d(inner, 1, 4, padding=1))
