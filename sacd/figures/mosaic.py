"""Many small pictures side by side."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

GAP = 2  # white pixels between pictures
PICTURE, TITLE = 0.72, 0.35  # inches


def plot_mosaics(groups: dict[str, Tensor], columns: int) -> Figure:
    """One mosaic for each titled group of uint8 images (N, 3, S, S), `columns` wide."""
    rows = max(-(-len(images) // columns) for images in groups.values())
    size = (PICTURE * columns * len(groups), PICTURE * rows + TITLE)
    figure, axes = plt.subplots(1, len(groups), figsize=size)
    for axis, (title, images) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        axis.imshow(mosaic(images, columns))
        axis.set_title(title)
        axis.axis("off")
    return figure


def mosaic(images: Tensor, columns: int) -> np.ndarray:
    """uint8 images (N, 3, S, S), `columns` of them in a row, on white: (H, W, 3)."""
    size = images.shape[-1]
    step, rows = size + GAP, -(-len(images) // columns)
    canvas = np.full((rows * step - GAP, columns * step - GAP, 3), 255, np.uint8)
    for number, picture in enumerate(images.permute(0, 2, 3, 1).numpy()):
        top, left = number // columns * step, number % columns * step
        canvas[top : top + size, left : left + size] = picture
    return canvas
