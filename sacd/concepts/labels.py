"""What labels tell apart: examples with a concept and without it."""

import colorsys

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from sacd.errors import SacdError

COLOR = "#[0-9a-f]{6}"
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")  # a sixth of the circle each
LEAST_SATURATION = 0.25  # of a colour that has a hue
MOST_KINDS = 50  # of a column that names kinds


def kinds_of(column: pd.Series) -> dict[str, np.ndarray]:
    """Which rows, bool (N,), are of each kind that a manifest's column tells.

    Names: each is a kind. Colours (`#rrggbb`): the six hues, without greyish ones. Numbers: `high`,
    above the median.
    """
    if pd.api.types.is_numeric_dtype(column):
        return {"high": (column > column.median()).to_numpy()}
    texts = column.astype(str)
    if texts.str.fullmatch(COLOR).all():
        hues = texts.map(_hue).to_numpy()
        return {hue: hues == number for number, hue in enumerate(HUES) if (hues == number).any()}
    kinds = sorted(texts.unique())
    if len(kinds) > MOST_KINDS:
        raise SacdError(f"column '{column.name}' has {len(kinds)} values: no kinds to tell apart.")
    return {kind: (texts == kind).to_numpy() for kind in kinds}


def _hue(color: str) -> int:
    """The number of a colour's hue in `HUES`, or -1."""
    red, green, blue = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    return round(hue * len(HUES)) % len(HUES) if saturation >= LEAST_SATURATION else -1


def pooled(features: Tensor, masks: Tensor | None, where: str) -> Tensor:
    """Features (N, C, h, w) averaged over "object", "background" or "image": (N, C).

    masks: (N, H, W), the objects, or how surely each pixel shows one, from 0 to 1; a location
    counts by the share of it that they cover. Raises `SacdError` where a part of the image is asked
    for and there are none.
    """
    if where == "image":
        return features.mean((2, 3))
    if masks is None:
        raise SacdError(f"where '{where}' needs true masks, which only the embedded world has.")
    height, width = features.shape[-2:]
    covered = F.adaptive_avg_pool2d(masks[:, None].float(), (height, width))
    weights = covered if where == "object" else 1 - covered
    return (features * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1e-6)
