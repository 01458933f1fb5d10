"""The embedded world: scenes with one large object whose class is its shape and fill.

Everything else varies freely: colour, place, scale, rotation, background, light, distractors and
occluders. (seed, split, index) determines an image, and the factors that drew it are known, so
edits and reconstructions can be judged against truth. Nothing that decides the class is finer than
about a tenth of the image, so it survives an 8x autoencoder. Objects lean by at most 22.5 degrees:
too much for a template, little enough for small networks to learn in minutes.
"""

import colorsys
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

SHAPES = ("disc", "square", "triangle", "cross", "star")
FILLS = ("solid", "stripes", "checks", "dots")
CLASSES = tuple(f"{fill}_{shape}" for shape in SHAPES for fill in FILLS)
SPLITS = ("train", "val", "test")
UNSEEN = {"shape": ("ring", "hexagon"), "fill": ("rings", "waves"), "background": ("vivid",)}

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Blob:
    """A small disc or square that means nothing: clutter behind the object or on top of it."""

    shape: str
    x: float
    y: float
    radius: float
    rotation: float
    color: Color


@dataclass(frozen=True)
class Scene:
    """True factors of an image. Lengths are fractions of the image's side, angles radians."""

    shape: str
    fill: str
    x: float
    y: float
    radius: float
    rotation: float
    fill_period: float
    hue: float
    color: Color
    second_color: Color
    background: Color
    second_background: Color
    background_angle: float
    light_angle: float
    light_strength: float
    behind: tuple[Blob, ...]
    in_front: tuple[Blob, ...]

    def factors(self) -> dict[str, Any]:
        """The scalar factors, as columns for the manifest."""
        named = asdict(self)
        for key in ("behind", "in_front"):
            named[f"n_{key}"] = len(named.pop(key))
        for key in ("color", "second_color", "background", "second_background"):
            red, green, blue = named.pop(key)
            named[key] = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        return named


def draw(seed: int, split: str, index: int) -> Scene:
    """Draw the scene of (seed, split, index); classes take turns, so every split is balanced."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    fill, shape = CLASSES[index % len(CLASSES)].split("_")
    radius = rng.uniform(0.27, 0.38)
    hue = rng.uniform()
    # A dark and a light colour, in either order: the pattern must be visible in luminance.
    dark = _color(hue, rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.6))
    light = _color(hue + rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.75, 1.0))
    color, second = (dark, light) if rng.uniform() < 0.5 else (light, dark)
    if fill == "solid":
        color = _color(hue, rng.uniform(0.6, 1.0), rng.uniform(0.5, 1.0))
    background_hue = rng.uniform()
    return Scene(
        shape=shape,
        fill=fill,
        x=rng.uniform(0.8 * radius, 1 - 0.8 * radius),
        y=rng.uniform(0.8 * radius, 1 - 0.8 * radius),
        radius=radius,
        rotation=rng.uniform(-np.pi / 8, np.pi / 8),
        fill_period=rng.uniform(0.215, 0.24),
        hue=hue,
        color=color,
        second_color=second,
        background=_color(background_hue, rng.uniform(0.05, 0.45), rng.uniform(0.35, 0.8)),
        second_background=_color(
            background_hue + rng.uniform(-0.2, 0.2), rng.uniform(0.05, 0.45), rng.uniform(0.35, 0.8)
        ),
        background_angle=rng.uniform(0, 2 * np.pi),
        light_angle=rng.uniform(0, 2 * np.pi),
        light_strength=rng.uniform(0.1, 0.35),
        behind=tuple(_blob(rng, 0.05, 0.1) for _ in range(rng.integers(1, 4))),
        in_front=tuple(_blob(rng, 0.06, 0.13) for _ in range(rng.integers(1, 6))),
    )


def draw_unseen(seed: int, index: int, factor: str) -> Scene:
    """The test scene of (seed, index), but with a shape, fill or background that no split has.

    `factor` is a key of `UNSEEN`; everything else stays, so that the two scenes can be compared.
    """
    scene, kinds = draw(seed, "test", index), UNSEEN[factor]
    if factor != "background":
        named: dict[str, Any] = {factor: kinds[index % len(kinds)]}
        return replace(scene, **named)
    hue = np.random.default_rng([seed, index]).uniform()  # splits' backgrounds are dull
    return replace(
        scene, background=_color(hue, 0.95, 0.95), second_background=_color(hue + 0.15, 0.95, 0.95)
    )


def render(scene: Scene, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene: (image uint8 (size, size, 3), object's visible mask bool (size, size))."""
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centers, centers)
    canvas = _background(scene, x, y)
    for blob in scene.behind:
        canvas = _over(canvas, _coverage(blob, x, y, size), np.asarray(blob.color))

    along, across = _local(scene, x, y)
    object_cover = _cover(_distance(scene.shape, along, across, scene.radius), size)
    shadow = _cover(
        _distance(scene.shape, *_local(scene, x, y, offset=0.03), scene.radius), size / 4
    )
    canvas = canvas * (1 - 0.35 * shadow[..., None])
    canvas = _over(canvas, object_cover, _surface(scene, along, across, x, y, size))

    visible = object_cover
    for blob in scene.in_front:
        cover = _coverage(blob, x, y, size)
        canvas = _over(canvas, cover, np.asarray(blob.color))
        visible = visible * (1 - cover)
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8), visible > 0.5


def _color(hue: float, saturation: float, value: float) -> Color:
    return colorsys.hsv_to_rgb(hue % 1.0, saturation, value)


def _blob(rng: np.random.Generator, smallest: float, largest: float) -> Blob:
    return Blob(
        shape=("disc", "square")[rng.integers(2)],
        x=rng.uniform(),
        y=rng.uniform(),
        radius=rng.uniform(smallest, largest),
        rotation=rng.uniform(0, 2 * np.pi),
        color=_color(rng.uniform(), rng.uniform(0.3, 1.0), rng.uniform(0.3, 1.0)),
    )


def _local(
    placed: Scene | Blob, x: np.ndarray, y: np.ndarray, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Image coordinates in the frame of an object (moved by `offset` down and right)."""
    dx, dy = x - placed.x - offset, y - placed.y - offset
    cos, sin = np.cos(placed.rotation), np.sin(placed.rotation)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _distance(shape: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the outline (negative inside), in fractions of the image's side."""
    if shape == "disc":
        return np.hypot(u, v) - 0.9 * radius
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.78 * radius
    if shape == "triangle":
        sides = [np.cos(a) * u + np.sin(a) * v for a in np.pi * np.array([1 / 2, 7 / 6, 11 / 6])]
        return np.maximum.reduce(sides) - 0.56 * radius
    if shape == "cross":
        bars = [
            np.maximum(abs(a) / 1.0 - radius, abs(b) - 0.36 * radius) for a, b in ((u, v), (v, u))
        ]
        return np.minimum(*bars)
    if shape == "ring":
        return abs(np.hypot(u, v) - 0.7 * radius) - 0.25 * radius
    if shape == "hexagon":
        angles = np.pi * np.array([0, 1 / 3, 2 / 3])
        return (
            np.maximum.reduce([abs(np.cos(a) * u + np.sin(a) * v) for a in angles]) - 0.8 * radius
        )
    # Star: fold the plane into one tenth, where the outline is a straight line between an outer
    # tip (radius 1.1) and an inner corner (radius 0.5, a tenth of a turn away).
    sector = 2 * np.pi / 5
    angle = abs((np.arctan2(v, u) + sector / 2) % sector - sector / 2)
    reach = np.hypot(u, v)
    tip = np.array([1.1 * radius, 0.0])
    corner = 0.5 * radius * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = corner - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (reach * np.cos(angle) - tip[0]) * normal[0] + (reach * np.sin(angle) - tip[1]) * normal[
        1
    ]


def _cover(distance: np.ndarray, size: float) -> np.ndarray:
    """Share of each pixel inside the outline: a ramp one pixel wide."""
    return (0.5 - distance * size).clip(0, 1)


def _coverage(blob: Blob, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    return _cover(_distance(blob.shape, *_local(blob, x, y), blob.radius), size)


def _over(canvas: np.ndarray, cover: np.ndarray, color: np.ndarray) -> np.ndarray:
    return canvas + cover[..., None] * (color - canvas)


def _background(scene: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = scene.background_angle
    ramp = 0.5 + 0.7 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    return _over(np.asarray(scene.background) * np.ones((*x.shape, 3)), ramp.clip(0, 1),
                 np.asarray(scene.second_background))  # fmt: skip


def _surface(
    scene: Scene, u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray, size: int
) -> np.ndarray:
    """The object's painted and lit surface, (size, size, 3)."""
    paint = _pattern(scene.fill, u, v, scene.fill_period, size)
    surface = _over(np.asarray(scene.color) * np.ones((*x.shape, 3)), paint,
                    np.asarray(scene.second_color))  # fmt: skip
    toward = np.cos(scene.light_angle) * (x - scene.x) + np.sin(scene.light_angle) * (y - scene.y)
    return surface * (1 + scene.light_strength * toward / scene.radius)[..., None]


def _pattern(fill: str, u: np.ndarray, v: np.ndarray, period: float, size: int) -> np.ndarray:
    """Share of the second colour at each pixel, with edges one pixel wide."""
    slope = period * size / (2 * np.pi)
    wave_u, wave_v = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    if fill == "solid":
        return np.zeros_like(u)
    if fill == "stripes":
        return (0.5 + slope * wave_u).clip(0, 1)
    if fill == "checks":
        return (0.5 + slope * wave_u * wave_v).clip(0, 1)
    if fill == "rings":
        return (0.5 + slope * np.sin(2 * np.pi * np.hypot(u, v) / period)).clip(0, 1)
    if fill == "waves":
        return (
            0.5 + slope * np.sin(2 * np.pi * (u + 0.08 * np.sin(np.pi * v / period)) / period)
        ).clip(0, 1)
    to_dot = [(a / period + 0.5) % 1 - 0.5 for a in (u, v)]
    return (0.5 + size * period * (0.32 - np.hypot(*to_dot))).clip(0, 1)
