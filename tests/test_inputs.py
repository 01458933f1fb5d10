"""What stages read and keep: other images of a set, and work that is not another job's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline import inputs, methods
from pipeline.inputs import others_of, stratified
from pipeline.settings.load import load_settings

ROOT = Path(__file__).resolve().parent.parent


class TestOthers:
    @pytest.mark.parametrize(
        "labels",
        [
            [0, 1, 2, 3] * 4,  # as the embedded world comes: half the set away is the same class
            [0, 0, 0, 0, 1, 1, 1, 1],
            [2, 0, 1],
            [0, 1, 1, 0, 1, 0, 0],
        ],
    )
    def test_each_image_gets_one_of_another_class_and_each_is_given_once(
        self, labels: list[int], monkeypatch: pytest.MonkeyPatch
    ):
        ids = [f"image {number}" for number in range(len(labels))]
        table = pd.DataFrame({"image_id": ids, "label": labels}).sample(frac=1, random_state=0)
        monkeypatch.setattr(inputs, "read_manifest", lambda path, split: table)
        others = others_of("test", ids).tolist()
        assert sorted(others) == list(range(len(labels)))
        alone = sum(labels[row] == labels[other] for row, other in enumerate(others))
        assert alone == max(0, 2 * max(map(labels.count, labels)) - len(labels))


def test_jobs_of_one_stage_keep_what_they_drew_apart(
    in_experiment: Callable, fixture_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """A job that ends clears its own work folder, and no other's."""
    folder = in_experiment(fixture_params)
    drawn = []

    def draw(ids: list[str], features: Tensor) -> dict[str, Tensor]:
        drawn.append(list(ids))
        return {"images": torch.zeros(len(ids), 1, 3, 4, 4, dtype=torch.uint8)}

    monkeypatch.setattr(methods, "prepare", lambda settings, backbone, method: (draw, []))
    settings, features = load_settings(folder / "params.yaml"), torch.zeros(2, 3, 4, 4)
    for what in ("blur", "noise", "blur"):
        draws = methods.prepare_once(settings, "tiny_a", ["spatial"], 1, "draw_edits", what)
        assert draws["spatial"](["a", "b"], features, "label").shape == (2, 1, 3, 4, 4)
    assert drawn == [["a", "b"]] * 2


class TestStratified:
    """Few images, and yet of as many classes, and of as many kinds of each factor, as can be."""

    @pytest.mark.parametrize(("shapes", "fills"), [(5, 4), (4, 5), (10, 2)])
    @pytest.mark.parametrize("order", ["cycling", "sorted", "shuffled"])
    def test_six_images_show_most_kinds_of_both_factors(self, shapes: int, fills: int, order: str):
        labels = np.tile(np.arange(shapes * fills), 4)
        if order == "sorted":
            labels = np.sort(labels)
        if order == "shuffled":
            labels = np.random.default_rng(0).permutation(labels)
        chosen = labels[stratified(labels)[:6]]
        assert len(set(chosen)) == 6
        assert len(set(chosen % fills)) >= min(4, fills)
        assert len(set(chosen // fills)) >= min(4, shapes)

    def test_no_class_has_more_than_one_row_above_another(self):
        labels = np.repeat([7, 3, 9], [5, 2, 5])
        for count in range(1, 13):
            chosen = labels[stratified(labels)[:count]]
            counts = [int((chosen == label).sum()) for label in (7, 9)]
            assert abs(counts[0] - counts[1]) <= 1
        assert sorted(stratified(labels)) == list(range(12))

    @pytest.mark.parametrize("classes", [1, 2, 3, 7, 1000])
    def test_any_number_of_classes(self, classes: int):
        labels = np.arange(classes).repeat(3)
        assert len(set(labels[stratified(labels)[:classes]])) == classes
