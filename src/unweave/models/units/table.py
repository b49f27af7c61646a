"""Operation -> its rule."""

from __future__ import annotations

from .layers import (
    batch_norm,
    convolved,
    grouped_product,
    halved,
    layer_norm,
    looked_up,
    padded,
    put,
    spatial,
)
from .rules import Rule, contracted, joined, moved, over, pointwise, reduced, stacked, unlabelled


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_table(moved, "view _unsafe_view reshape permute transpose t expand unsqueeze squeeze select slice unbind split "
             "split_with_sizes chunk unsafe_chunk unsafe_split clone detach alias contiguous _to_copy roll flip repeat "
             "narrow unfold diagonal lift_fresh zeros_like ones_like empty_like full_like rand_like randn_like "
             "bernoulli as_strided_ pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
             "_reshape_alias"),
    **_table(contracted, "mm bmm addmm baddbmm mv addmv linear matmul"),
    **_table(grouped_product, "_grouped_mm"),
    **_table(convolved, "convolution _convolution"),
    **_table(spatial, "max_pool1d max_pool2d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
             "avg_pool3d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d "
             "adaptive_max_pool2d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d "
             "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa upsample_linear1d reflection_pad1d "
             "reflection_pad2d "
             "replication_pad1d replication_pad2d"),
    **_table(padded, "constant_pad_nd"),
    **_table(joined, "cat"),
    **_table(stacked, "stack"),
    **_table(reduced, "mean sum amax amin max min var std var_mean argmax any all "
             "linalg_vector_norm norm prod logsumexp"),
    **_table(over, "_softmax _log_softmax _safe_softmax softmax log_softmax cumsum cumprod sort topk"),
    **_table(halved, "glu"),
    **_table(layer_norm, "native_layer_norm layer_norm rms_norm _fused_rms_norm"),
    **_table(batch_norm, "native_batch_norm _native_batch_norm_legit_no_training batch_norm _native_batch_norm_legit "
             "cudnn_batch_norm"),
    **_table(looked_up, "embedding index index_select gather"),
    **_table(unlabelled, "new_empty new_zeros new_ones new_full new_empty_strided"),
    **_table(pointwise, "copy_ _prelu_kernel"),
    **_table(put, "index_add index_add_ index_copy index_copy_"),
}  # fmt: skip
"""Operation -> its rule; operations that torch calls pointwise have `pointwise`."""
