"""The embedded world: deterministic, balanced, and drawn where its factors say."""

import math
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from sacd.images.shapes import CLASSES, SHAPES, SPLITS, Scene, draw, render


def bare(scene: Scene, **changes) -> Scene:
    """The scene's object alone, in the middle, on a plain background."""
    plain = {"behind": (), "in_front": (), "x": 0.5, "y": 0.5, "light_strength": 0.0}
    return replace(scene, **(plain | changes))


def test_the_same_seed_split_and_index_give_the_same_image():
    assert draw(3, "val", 17) == draw(3, "val", 17)
    first, second = render(draw(3, "val", 17), 48), render(draw(3, "val", 17), 48)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_seed_split_and_index_each_change_the_scene():
    scenes = [draw(3, "val", 17), draw(4, "val", 17), draw(3, "test", 17), draw(3, "val", 37)]
    assert len({scene.hue for scene in scenes}) == 4
    assert len({render(scene, 32)[0].tobytes() for scene in scenes}) == 4


def test_splits_share_no_image():
    images = [
        render(draw(0, split, index), 16)[0].tobytes() for split in SPLITS for index in range(60)
    ]
    assert len(set(images)) == len(images)


def test_classes_take_turns_and_are_balanced():
    names = [f"{scene.fill}_{scene.shape}" for scene in (draw(1, "train", i) for i in range(100))]
    assert names[:20] == list(CLASSES)
    assert set(Counter(names).values()) == {5}
    assert len(CLASSES) == 20


def test_images_and_masks_have_their_types_and_something_to_see():
    for index in range(20):
        image, mask = render(draw(2, "train", index), 64)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((64, 64), np.bool_)
        assert image.std() > 10
        assert 0.03 < mask.mean() < 0.5


# Areas of the outlines in units of radius^2, by elementary geometry.
AREAS = {
    "disc": math.pi * 0.9**2,
    "square": (2 * 0.78) ** 2,
    "triangle": 3 * math.sqrt(3) * 0.56**2,  # inscribed circle 0.56
    "cross": 2 * (2 * 0.72) - 0.72**2,  # two bars, 2 x 0.72, less their common square
    "star": 5 * 1.1 * 0.5 * math.sin(math.pi / 5),  # ten triangles between tip and corner
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mask_has_the_area_of_its_shape(shape):
    scene = bare(draw(0, "train", 0), shape=shape, radius=0.3, rotation=0.4)
    mask = render(scene, 256)[1]
    assert mask.mean() == pytest.approx(AREAS[shape] * 0.3**2, rel=0.01)


def test_the_mask_of_a_disc_lies_where_its_factors_say():
    mask = render(bare(draw(0, "train", 0), shape="disc", x=0.4, y=0.55, radius=0.3), 200)[1]
    rows, columns = np.nonzero(mask)
    assert (columns.mean() + 0.5) / 200 == pytest.approx(0.4, abs=0.005)
    assert (rows.mean() + 0.5) / 200 == pytest.approx(0.55, abs=0.005)


def test_occluders_cut_the_mask_and_clutter_behind_does_not():
    scene = next(s for s in (draw(0, "train", i) for i in range(50)) if s.in_front and s.behind)
    blob = replace(scene.in_front[0], shape="disc", x=0.5, y=0.5, radius=0.1)
    whole = render(bare(scene, shape="disc", radius=0.3), 128)[1]
    behind = render(bare(scene, shape="disc", radius=0.3, behind=(blob,)), 128)[1]
    cut = render(bare(scene, shape="disc", radius=0.3, in_front=(blob,)), 128)[1]
    assert np.array_equal(behind, whole)
    assert not cut[64, 64]
    assert whole.sum() - cut.sum() == pytest.approx(math.pi * (0.09 * 128) ** 2, rel=0.05)


def test_a_solid_object_shows_its_colour_and_a_pattern_both():
    solid = bare(draw(0, "train", 0), shape="square", fill="solid", radius=0.35)
    image, mask = render(solid, 64)
    inside = image[28:36, 28:36].reshape(-1, 3) / 255
    assert np.allclose(inside, solid.color, atol=0.01)
    for fill in ("stripes", "checks", "dots"):
        patterned = render(replace(solid, fill=fill), 64)[0][mask] / 255
        for color in (solid.color, solid.second_color):
            assert (abs(patterned - color).max(1) < 0.02).sum() > 50, (fill, color)


def test_factors_are_scalars_for_every_field_of_the_scene():
    scene = draw(5, "test", 3)
    factors = scene.factors()
    assert factors["n_behind"] == len(scene.behind)
    assert factors["n_in_front"] == len(scene.in_front)
    named = {field.name for field in fields(Scene)} - {"behind", "in_front"}
    assert named <= set(factors)
    assert all(isinstance(value, (str, float, int)) for value in factors.values())
    assert factors["radius"] == scene.radius
    red = round(scene.color[0] * 255)
    assert factors["color"].startswith(f"#{red:02x}")


def test_factors_vary_independently_of_the_class():
    scenes = [draw(0, "train", index) for index in range(400)]
    for name in ("x", "y", "radius", "rotation", "hue", "background_angle"):
        values = np.array([getattr(scene, name) for scene in scenes]).reshape(20, 20)
        spread, between = values.std(), values.mean(0).std()  # columns are classes
        assert spread > 0
        assert between < 0.5 * spread, name
