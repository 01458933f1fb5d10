"""How a timm network's output becomes a map (N, C, h, w).

Networks give maps channels first or last, or sequences of tokens. Shapes leave open some of it;
`sacd.backbones.order` tells what is in place.
"""

from torch import Tensor, nn


def maps_of(features: Tensor, network: nn.Module) -> dict[str, Tensor]:
    """The maps (N, C, h, w), of 2 x 2 or more, that features may be, by layout, likeliest first.

    Layouts: "NCHW" and "NHWC" for square maps; "tokens" (N, h w, C), of which some may be
    "prefixed" by others that are no patches. Tokens have the shape of the network's patch grid
    where they are as many, else they are a square.
    """
    found: dict[str, Tensor] = {}
    if features.ndim == 3:
        # Of a layer before the prefix tokens are added there are none to cut.
        counts = {"prefixed": prefix_tokens(network), "tokens": 0}
        for layout, count in counts.items():
            patches = features[:, count:]
            shape = _shape_of_tokens(patches.shape[1], network)
            if shape and (count or layout == "tokens"):
                found[layout] = patches.transpose(1, 2).unflatten(2, shape)
    elif features.ndim == 4:
        first, middle, last = features.shape[1:]
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"  # of the last map
        for layout in ("NHWC", "NCHW") if channels_last else ("NCHW", "NHWC"):
            if layout == "NCHW" and middle == last:
                found[layout] = features
            if layout == "NHWC" and first == middle:
                found[layout] = features.permute(0, 3, 1, 2)
    return {layout: one for layout, one in found.items() if min(one.shape[-2:]) > 1}


def patch_grid(network: nn.Module) -> tuple[int, int] | None:
    """The (h, w) patches into which a network cuts its image, where timm knows it."""
    for module in network.modules():
        grid = getattr(module, "grid_size", None)
        if hasattr(module, "num_patches") and isinstance(grid, tuple) and len(grid) == 2:
            return grid
    return None


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
    raise ValueError(f"{tuple(features.shape)} is no map of 2 x 2 or more")


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


def _shape_of_tokens(count: int, network: nn.Module) -> tuple[int, int] | None:
    grid = patch_grid(network)
    if grid and grid[0] * grid[1] == count:
        return grid
    side = round(count**0.5)
    return (side, side) if side * side == count else None
