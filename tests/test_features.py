"""Cached features and their whitening."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sacd.features.cache import extract
from sacd.features.whitening import POOLED_RIDGE, RIDGE, measure_whitening

CPU = torch.device("cpu")


def random_features(count: int = 23) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1, 1)
    return scale * torch.randn(count, 3, 4, 2, generator=generator) + 2 * scale


class TestWhitening:
    @staticmethod
    def mixed_features(count: int = 400) -> torch.Tensor:
        """Maps (N, 3, 4, 2) whose channels depend on one another."""
        mixing = torch.tensor([[1.0, 0.0, 0.0], [4.0, 1.0, 0.0], [0.0, 2.0, 0.2]])
        return torch.einsum("dc,nchw->ndhw", mixing, random_features(count))

    @pytest.mark.parametrize("pooled", [False, True])
    def test_whitened_features_vary_alike_in_every_direction(self, pooled: bool):
        features = self.mixed_features()
        found = measure_whitening(features.split(7), pooled)
        values = features.mean((2, 3)) if pooled else features.permute(0, 2, 3, 1).flatten(0, 2)
        before = np.cov(values.double().numpy().T, bias=True)
        white = (values - found.mean) @ found.matrix.T
        after = np.cov(white.double().numpy().T, bias=True)
        variances, directions = np.linalg.eigh(before)
        ridge = POOLED_RIDGE if pooled else RIDGE
        expected = variances / (variances + ridge * variances.max())
        assert found.mean.numpy() == pytest.approx(values.mean(0).numpy(), rel=1e-4)
        assert directions.T @ after @ directions == pytest.approx(np.diag(expected), abs=1e-3)
        assert expected.min() < 0.9 < expected.max()  # the ridge is seen at work

    def test_channels_keep_their_order_and_sign(self):
        features = random_features(400)  # independent channels of deviations 1, 5 and 0.1
        matrix = measure_whitening([features], pooled=False).matrix
        expected = (torch.tensor([1.0, 25.0, 0.01]) + 25 * RIDGE).rsqrt()
        assert torch.allclose(matrix, torch.diag(expected), atol=0.05)

    @pytest.mark.parametrize("rows", [1, 5, 23])
    def test_it_does_not_depend_on_how_rows_are_split(self, rows: int):
        features = self.mixed_features(23).half()
        found = measure_whitening(features.split(rows), pooled=False)
        expected = measure_whitening([features], pooled=False)
        assert torch.allclose(found.mean, expected.mean)
        assert torch.allclose(found.matrix, expected.matrix, rtol=1e-4, atol=1e-5)

    def test_features_that_are_all_alike_become_zero(self):
        features = torch.full((5, 3, 4, 2), 0.3).half()
        found = measure_whitening([features], pooled=False)
        white = (features[0, :, 0, 0].float() - found.mean) @ found.matrix
        assert torch.allclose(white, torch.zeros(3), atol=1e-3)


def test_extract_gives_the_backbones_maps_and_logits_in_half_precision(tiny_backbone: Callable):
    backbone = tiny_backbone()
    images = torch.randint(
        256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    found = extract(backbone, images, CPU)
    with torch.no_grad():
        maps, logits = backbone(images.float() / 255)
    assert torch.equal(found["features"], maps.half())
    assert torch.equal(found["logits"], logits.half())


def test_extract_keeps_the_order_of_images_beyond_one_batch(tiny_backbone: Callable, monkeypatch):
    monkeypatch.setattr("sacd.features.cache.BATCH", 2)
    images = torch.randint(
        256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8
    )
    backbone = tiny_backbone(classes=0)
    found = extract(backbone, images, CPU)
    alone = torch.cat(
        [extract(backbone, images[row : row + 1], CPU)["features"] for row in range(5)]
    )
    assert "logits" not in found
    assert torch.allclose(found["features"].float(), alone.float(), rtol=1e-2, atol=1e-3)
