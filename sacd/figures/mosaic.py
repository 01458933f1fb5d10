"""Many small pictures side by side."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor


def plot_mosaics(groups: dict[str, Tensor], columns: int) -> Figure:
    """One mosaic for each titled group of uint8 images (N, 3, S, S), `columns` wide."""
    figure, axes = plt.subplots(1, len(groups), figsize=(0.72 * columns * len(groups), 3.4))
    for axis, (title, images) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        axis.imshow(_mosaic(images, columns))
        axis.set_title(title)
        axis.axis("off")
    return figure


def _mosaic(images: Tensor, columns: int) -> np.ndarray:
    """(N, 3, S, S) -> (rows * (S + 2), columns * (S + 2), 3), on white."""
    size = images.shape[-1] + 2
    rows = -(-len(images) // columns)
    canvas = np.full((rows * size, columns * size, 3), 255, np.uint8)
    for number, picture in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = number // columns * size, number % columns * size
        canvas[top : top + size - 2, left : left + size - 2] = picture
    return canvas
