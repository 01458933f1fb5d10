"""How a timm network's output becomes a map (N, C, h, w), and whether that map is in place.

Networks give maps channels first or last, or sequences of tokens; a few hold their tokens in an
order of their own. Shapes tell most of it. What they leave open, and whether the order is that of
the image, is seen by changing a square of an image: the map must change there.
"""

import torch
from torch import Tensor, nn

# Where squares are changed, as shares of the image's height and width.
PLACES = ((0.125, 0.625), (0.625, 0.125), (0.375, 0.875), (0.875, 0.375))
SQUARE = 0.125  # their side, as a share of the image's
FEW = 4  # locations a side, with which a square lies in several
TOLERANCE = 0.25  # how far off the largest change may be, as a share of the side
SHARP = 3.0  # times the median change: so much at one location is of that location


def maps_of(features: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """The square maps (N, C, h, w) that features may be, by layout, the likeliest first.

    Layouts: "NCHW", "NHWC"; "tokens" (N, h w, C), "prefixed" by others that are no patches.
    """
    found: dict[str, Tensor] = {}
    if features.ndim == 3:
        # Of a layer before the prefix tokens are added there are none to cut.
        counts = {"prefixed": prefix_tokens(network), "tokens": 0}
        for layout, count in counts.items():
            patches = features[:, count:]
            side = round(patches.shape[1] ** 0.5)
            if side * side == patches.shape[1] and (count or layout == "tokens"):
                found[layout] = patches.transpose(1, 2).unflatten(2, (side, side))
    elif features.ndim == 4:
        first, middle, last = features.shape[1:]
        layouts = ("NHWC", "NCHW") if _ends_channels_last(network) else ("NCHW", "NHWC")
        for layout in layouts:
            if layout == "NCHW" and middle == last:
                found[layout] = features
            if layout == "NHWC" and first == middle:
                found[layout] = features.permute(0, 3, 1, 2)
    return {layout: one for layout, one in found.items() if one.shape[-1] > 1}


def _ends_channels_last(network: nn.Module) -> bool:
    return getattr(network, "output_fmt", "NCHW") == "NHWC"


def prefix_tokens(network: nn.Module) -> int:
    """How many tokens (class, distillation, registers) stand before those of the patches."""
    counted = getattr(network, "num_prefix_tokens", None)
    if counted is not None:
        return int(counted)
    names = ("cls_token", "dist_token")
    return sum(isinstance(getattr(network, name, None), Tensor) for name in names)


def to_nchw(features: Tensor, network: nn.Module) -> Tensor:
    """The likeliest map that features of this shape are; raises ValueError where there is none."""
    for found in maps_of(features, network).values():
        return found
    raise ValueError(f"{tuple(features.shape)} is no square map of 2 x 2 or more")


def restored(features: Tensor, layout: str) -> Tensor | None:
    """A map (N, C, h, w) in a layout of `maps_of`; None where that holds more than the map."""
    match layout:
        case "NCHW":
            return features
        case "NHWC":
            return features.permute(0, 2, 3, 1)
        case "tokens":
            return features.flatten(2).transpose(1, 2)
    return None


def changed_squares(size: int) -> Tensor:
    """A grey image of `size` pixels, and the same with a square changed at each of `PLACES`."""
    images = torch.full((1 + len(PLACES), 3, size, size), 0.5)
    side = max(1, round(SQUARE * size))
    for image, (row, column) in zip(images[1:], PLACES, strict=True):
        top, left = (int(place * size) - side // 2 for place in (row, column))
        image[:, top : top + side, left : left + side] = 1.0
    return images


def displacement(features: Tensor) -> float:
    """Of maps of `changed_squares`: how far from its square each changes most, the median.

    In shares of the side, of the farther axis; by chance 0.4 and more.
    """
    changes = _changes(features)
    height, width = changes.shape[-2:]
    rows, columns = torch.unravel_index(changes.flatten(1).argmax(1), (height, width))
    found = torch.stack([(rows + 0.5) / height, (columns + 0.5) / width], 1)
    return float((found - torch.tensor(PLACES)).abs().amax(1).median())


def in_order(features: Tensor) -> bool:
    """Whether maps of `changed_squares` change where the image did.

    A layer that mixes all locations (of a mixer, say) changes everywhere alike, and tells nothing
    of its order: what is refused changes sharply, and elsewhere. Nor do maps of few locations.
    """
    if features.shape[-1] < FEW:
        return True
    changes = _changes(features).flatten(1)
    sharp = bool((changes.amax(1) > SHARP * changes.median(1).values).float().median() > 0)
    return not sharp or displacement(features) <= TOLERANCE


def _changes(features: Tensor) -> Tensor:
    return (features[1:] - features[:1]).float().norm(dim=1)
