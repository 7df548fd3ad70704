"""How strongly a text is seen somewhere in a visual: late interaction of patches and texts."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medvlp.models.pooling import PATCH_SHARE, segment_ids, segment_max, segment_mean

FRAME_SHARPNESS = 4.0


def patch_evidence(
    patches: Float[Tensor, "n p e"],
    text: Float[Tensor, "m e"],
    offsets: Int[Tensor, " bounds"],
    share: float = PATCH_SHARE,
    sharpness: float = FRAME_SHARPNESS,
) -> Float[Tensor, "b m"]:
    """Evidence for each text in each visual.

        f_nj = mean of the largest `share` of the products patch . t_j of frame n
        s_ij = 1/k log( mean_{frames n of visual i} exp(k f_nj) )

    A finding fills few patches of few frames. A mean over all patches drowns it, and the single
    largest one is noise; the mean of the top few is neither (top-k pooling of multiple-instance
    learning, WELDON, Durand et al. 2016). Frames are joined by a smooth maximum, which does not
    depend on how many there are.

    Args:
        patches: Vectors of all frames of all samples in a row.
        text: Unit vectors.
        offsets: Sample i owns frames offsets[i]:offsets[i + 1]; none is empty.
        share: Share of a frame's patches, at least one patch.
        sharpness: k; 0 would be the mean over frames, infinity the maximum.
    """
    count = max(1, round(share * patches.shape[1]))
    # In the precision of the patches: in training this product is the dearest of all after the
    # convolutions.
    products = (patches @ text.to(patches.dtype).T).transpose(1, 2)  # [n, m, p]
    products = products.to(torch.promote_types(products.dtype, torch.float32))
    by_frame = products.topk(count, dim=-1).values.mean(-1)
    owner, b = segment_ids(offsets), len(offsets) - 1
    # The largest frame is taken out first, so that the exponentials cannot overflow.
    top = segment_max(by_frame.detach(), owner, b)
    mass = segment_mean((sharpness * (by_frame - top[owner])).exp(), owner, b)
    return top + mass.log() / sharpness
