"""What stages read and keep: other images of a set, and work that is not another job's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from pipeline import inputs, methods
from pipeline.inputs import others_of
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
