"""Scores of a batch of reconstructions, with small random networks as eyes."""

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor

from sacd.features.cache import extract
from sacd.metrics.features import mean_pairwise_distance
from sacd.metrics.images import image_spread
from sacd.metrics.scoring import Eyes, Truth, score_batch
from sacd.metrics.segmenter import create_segmenter, mask_iou, mask_logits

CPU = torch.device("cpu")
IMAGES, SAMPLES = 5, 3


def random_images(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def eyes(tiny_backbone: Callable) -> Eyes:
    torch.manual_seed(5)
    segmenter = create_segmenter(4, 32).eval().requires_grad_(False)
    return Eyes(tiny_backbone(1), tiny_backbone(2, classes=4), segmenter, CPU)


@pytest.fixture
def truth(eyes: Eyes) -> Truth:
    images = random_images(0, IMAGES, 3, 32, 32)
    seen, judged = extract(eyes.backbone, images, CPU), extract(eyes.judge, images, CPU)
    return Truth(
        ids=[f"image-{row}" for row in range(IMAGES)],
        images=images,
        features=seen["features"],
        logits=seen["logits"],
        judge_features=judged["features"],
        judge_logits=judged["logits"],
        masks=random_images(1, IMAGES, 32, 32) > 127,
    )


@pytest.fixture
def samples() -> Tensor:
    return random_images(2, IMAGES, SAMPLES, 3, 32, 32)


def test_a_batch_scores_as_its_rows_do(truth: Truth, samples: Tensor, eyes: Eyes):
    whole, judged = score_batch(truth, samples, eyes)
    parts = [
        score_batch(truth.rows(row, row + 1), samples[row : row + 1], eyes) for row in range(IMAGES)
    ]
    joined = pd.concat([table for table, _ in parts], ignore_index=True)
    pd.testing.assert_frame_equal(whole, joined, rtol=1e-4, atol=1e-5)
    assert torch.allclose(judged, torch.cat([rows for _, rows in parts]), rtol=1e-4, atol=1e-5)


def test_there_is_one_row_for_each_image_and_sample(truth: Truth, samples: Tensor, eyes: Eyes):
    table, judged = score_batch(truth, samples, eyes)
    assert table.image_id.tolist() == [f"image-{row}" for row in range(IMAGES) for _ in range(3)]
    assert table["sample"].tolist() == [0, 1, 2] * IMAGES
    assert judged.shape == (IMAGES, truth.judge_features.shape[1])
    assert table.drop(columns=["image_id"]).notna().all(axis=None)


def test_originals_score_as_perfect_reconstructions(truth: Truth, eyes: Eyes):
    table, judged = score_batch(truth, truth.images[:, None], eyes)
    for name in ("cos_median", "cos_pooled", "judge_cos_median", "judge_cos_pooled", "ssim"):
        assert table[name].min() > 0.999, name
    for name in ("top1_match", "top5_match", "judge_top1_match", "judge_top5_match"):
        assert (table[name] == 1).all(), name
    assert (table.psnr_db > 99).all()
    assert table.rel_l2.max() < 0.01
    pooled = truth.judge_features.float().mean((2, 3))
    assert torch.allclose(judged, pooled, rtol=0.01, atol=0.01)
    assert "spread_image" not in table  # one sample has no spread


def test_each_sample_is_compared_with_its_own_image(truth: Truth, eyes: Eyes):
    samples = torch.stack([truth.images, truth.images.roll(1, 0)], dim=1)
    table, _ = score_batch(truth, samples, eyes)
    right, wrong = table[table["sample"] == 0], table[table["sample"] == 1]
    assert right.cos_median.min() > 0.999
    assert wrong.cos_median.max() < 0.999
    assert wrong.psnr_db.max() < 20


def test_spreads_belong_to_the_image_and_overlap_to_the_sample(
    truth: Truth, samples: Tensor, eyes: Eyes
):
    table, _ = score_batch(truth, samples, eyes)
    images = samples.float() / 255
    with torch.no_grad():
        maps = eyes.backbone(images.flatten(0, 1))[0].unflatten(0, (IMAGES, SAMPLES))
        found = mask_logits(eyes.segmenter, images.flatten(0, 1)) > 0
    expected = mask_iou(found, truth.masks.repeat_interleave(SAMPLES, 0))
    for column, values in {
        "spread_image": image_spread(images).repeat_interleave(SAMPLES),
        "spread_features": mean_pairwise_distance(maps).repeat_interleave(SAMPLES),
        "object_iou": expected,
    }.items():
        assert table[column].tolist() == pytest.approx(values.tolist(), abs=1e-4), column


def test_what_is_not_known_is_not_scored(truth: Truth, samples: Tensor, eyes: Eyes):
    blind = Truth(**{**vars(truth), "logits": None, "masks": None})
    table, _ = score_batch(blind, samples, eyes)
    assert "top1_match" not in table
    assert "object_iou" not in table
    assert "judge_top1_match" in table
