"""Whether a map is in the order of the image: where a square changes, there the map must change.

A few networks hold their tokens in an order of their own (Hiera), or by windows, and attention's
weights look like maps. Shapes tell nothing of that, and neither do names.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Where squares are changed, in eighths of the image's height and width: one in each row and column
# of them, in no symmetry, so that a map that is turned over is not in place.
ROWS = (0, 1, 2, 3, 4, 5, 6, 7)
COLUMNS = (5, 2, 7, 4, 1, 6, 3, 0)
ALIGNED = 0.12  # `alignment` of maps in place; others reach 0.1 (random orders of 7 x 7)
FEW = 4  # locations a side
SHARP = 4.0  # times the mean of all squares' changes; layers that mix all locations reach 3, of 8
ROUNDING = 1e-6  # changes up to that, as a share of the features, are none


def changed_squares(size: int) -> Tensor:
    """A batch (9, 3, size, size): an image of soft colours, and eight copies with a changed square.

    A plain image would not do: where its colour is the mean that is subtracted, nothing is left.
    """
    colours = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(colours, (size, size), mode="bilinear").repeat(1 + len(ROWS), 1, 1, 1)
    side = max(1, size // len(ROWS))
    for image, row, column in zip(images[1:], ROWS, COLUMNS, strict=True):
        top, left = (place * size // len(ROWS) for place in (row, column))
        square = image[:, top : top + side, left : left + side]
        square.copy_((square + 0.5) % 1)
    return images


def alignment(features: Tensor) -> float:
    """How well maps (9, C, h, w) of `changed_squares` change where the images do; at best 0.7.

    The correlation of the change's logarithm with nearness, by rows or by columns, whichever is
    less. What a square changes everywhere, and what any square changes at a location, is taken out
    first: even attention that hardly tells places apart is aligned then.
    """
    changes = _changes(features)
    floor = 1e-9 * changes.max() + torch.finfo(changes.dtype).tiny
    logarithms = _centred((changes + floor).log())
    along = []
    for places, count, shape in zip(
        (ROWS, COLUMNS), changes.shape[-2:], ((1, -1, 1), (1, 1, -1)), strict=True
    ):
        at = (torch.arange(count) + 0.5).double() / count
        squares = (torch.tensor(places).double() + 0.5) / len(places)
        nearness = -(at.view(shape) - squares.view(-1, 1, 1)).abs()
        expected = _centred(nearness.expand_as(changes))
        scale = logarithms.norm() * expected.norm()
        along.append(float((logarithms * expected).sum() / scale.clamp_min(1e-12)))
    return min(along)


def scattered(features: Tensor) -> bool:
    """Whether each square changes maps (9, C, h, w) at some locations, much more than others do.

    Where that is not in place, the map is in another order. Layers that mix all locations change
    everywhere alike, and of few locations any may be the one that a square changes.
    """
    changes = _changes(features)
    relative = changes / changes.mean(0).clamp_min(1e-9 * float(changes.max()) + 1e-300)
    sharpness = float(relative.flatten(1).amax(1).median())
    return min(changes.shape[-2:]) >= FEW and sharpness > SHARP


def _changes(features: Tensor) -> Tensor:
    """What squares change at every location beyond what they change everywhere, (8, h, w)."""
    features = features.float()
    changes = features[1:] - features[:1]
    changes = (changes - changes.mean((2, 3), keepdim=True)).norm(dim=1)
    rounding = ROUNDING * features[0].norm(dim=0).max()
    return (changes - rounding).clamp_min(0).double().cpu()


def _centred(values: Tensor) -> Tensor:
    """Values (squares, h, w) without the mean of any square, and of any location."""
    values = values - values.mean((1, 2), keepdim=True)
    return values - values.mean(0, keepdim=True)
