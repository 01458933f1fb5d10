"""The parts of images in which a concept is strongest, for a person to name it by."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 3  # locations that a patch is wide and high


def best_patches(vectors: Tensor, features: Tensor, images: Tensor, count: int) -> Tensor:
    """Patches (K, count, 3, P, P) around the locations furthest along each direction, best first.

    vectors: (K, C); features: (N, C, h, w); images: uint8 (N, 3, S, S), with P = SIDE x S / h. Each
    of a direction's patches is of another image. What lies beyond an image's edge repeats the edge.
    """
    along = torch.einsum("kc,nchw->knhw", vectors, features.float()).flatten(2)
    strongest, places = along.max(2)
    rows = strongest.topk(count, dim=1).indices
    cell = images.shape[-1] // features.shape[-1]
    margin = cell * (SIDE // 2)
    padded = F.pad(images.float(), (margin,) * 4, mode="replicate").to(images.dtype)
    found = []
    for number, chosen in enumerate(rows.tolist()):
        for row in chosen:
            top, left = divmod(int(places[number, row]), features.shape[-1])
            box = padded[row, :, top * cell :, left * cell :]
            found.append(box[:, : SIDE * cell, : SIDE * cell])
    return torch.stack(found).unflatten(0, (len(vectors), count))
