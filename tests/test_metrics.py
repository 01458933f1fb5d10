"""Every score against a closed form or a plain loop."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import normal
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3

from sacd.metrics.bootstrap import mean_interval
from sacd.metrics.features import (
    class_scores,
    feature_scores,
    location_cosines,
    mean_pairwise_distance,
)
from sacd.metrics.images import image_scores, image_spread, pixel_spread
from sacd.metrics.segmenter import mask_iou
from sacd.metrics.sets import frechet_distance, inception_distances


class TestLocationCosines:
    def test_a_map_agrees_with_itself_everywhere(self):
        maps = normal(3, 5, 4, 4)
        assert torch.allclose(location_cosines(maps, maps), torch.ones(3, 16))

    def test_orthogonal_channels_give_zero_and_opposite_ones_minus_one(self):
        first = torch.zeros(1, 2, 1, 2)
        second = first.clone()
        first[0, 0] = 1.0
        second[0, :, 0, 0] = torch.tensor([0.0, 3.0])
        second[0, :, 0, 1] = torch.tensor([-2.0, 0.0])
        assert location_cosines(first, second).tolist() == [[0.0, -1.0]]

    def test_each_location_may_be_scaled_by_itself(self):
        ours, truth = normal(2, 5, 3, 3, seed=1), normal(2, 5, 3, 3, seed=2)
        scale = normal(2, 1, 3, 3, seed=3).abs() + 0.1
        expected = location_cosines(ours, truth)
        assert torch.allclose(location_cosines(ours * scale, truth), expected, atol=1e-6)

    def test_is_symmetric(self):
        ours, truth = normal(2, 5, 3, 3, seed=1), normal(2, 5, 3, 3, seed=2)
        assert torch.equal(location_cosines(ours, truth), location_cosines(truth, ours))

    def test_locations_are_compared_with_the_same_location(self):
        ours, truth = normal(1, 5, 2, 3, seed=1), normal(1, 5, 2, 3, seed=2)
        dot = float(ours[0, :, 1, 2] @ truth[0, :, 1, 2])
        lengths = float(ours[0, :, 1, 2].norm() * truth[0, :, 1, 2].norm())
        assert float(location_cosines(ours, truth)[0, 5]) == pytest.approx(dot / lengths, abs=1e-6)


def maps_with_cosines(cosines: list[float]) -> tuple[Tensor, Tensor]:
    """Two-channel maps (1, 2, 1, n) whose cosine at location i is `cosines[i]`."""
    truth = torch.zeros(1, 2, 1, len(cosines))
    truth[0, 0] = 1.0
    along = torch.tensor(cosines)
    return torch.stack([along, (1 - along**2).sqrt()])[None, :, None], truth


class TestFeatureScores:
    def test_median_mean_and_quantile_over_locations(self):
        scores = feature_scores(*maps_with_cosines([1.0, 0.0, 0.25, 0.9, 0.5]))
        assert float(scores["cos_median"]) == pytest.approx(0.5, abs=1e-6)
        assert float(scores["cos_mean"]) == pytest.approx(0.53, abs=1e-6)
        # A twentieth of the way along four gaps between sorted values: a fifth of the first gap.
        assert float(scores["cos_q05"]) == pytest.approx(0.05, abs=1e-6)

    def test_pooled_cosine_is_that_of_the_averages(self):
        ours, truth = normal(2, 5, 3, 3, seed=4), normal(2, 5, 3, 3, seed=5)
        a, b = ours.mean((2, 3)), truth.mean((2, 3))
        expected = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        assert torch.allclose(feature_scores(ours, truth)["cos_pooled"], expected, atol=1e-6)

    def test_pooled_cosine_ignores_where_things_are_and_the_others_do_not(self):
        maps = normal(1, 5, 3, 3, seed=6)
        scores = feature_scores(maps.flip(3), maps)
        assert float(scores["cos_pooled"]) == pytest.approx(1.0, abs=1e-5)
        assert float(scores["cos_mean"]) < 0.9

    def test_relative_distance_is_the_share_of_the_truths_length(self):
        truth = normal(2, 5, 3, 3, seed=7)
        assert torch.allclose(feature_scores(truth, truth)["rel_l2"], torch.zeros(2))
        assert torch.allclose(feature_scores(1.5 * truth, truth)["rel_l2"], torch.full((2,), 0.5))
        assert torch.allclose(feature_scores(0 * truth, truth)["rel_l2"], torch.ones(2))

    def test_half_precision_is_computed_in_single(self):
        maps = 300 * normal(1, 64, 3, 3, seed=8).half()  # squares overflow half precision
        scores = feature_scores(maps, maps)
        assert float(scores["cos_median"]) == pytest.approx(1.0, abs=1e-4)
        assert float(scores["rel_l2"]) == 0.0


class TestClassScores:
    def test_rank_of_the_wanted_class_decides(self):
        truth = F.one_hot(torch.tensor([2, 2, 2]), 8).float()
        ours = torch.tensor([[0.0, 1, 9, 3, 4, 5, 6, 7],  # rank 1
                             [0.0, 1, 5, 9, 8, 7, 6, 2],  # rank 5
                             [0.0, 1, 4, 9, 8, 7, 6, 5]])  # fmt: skip  # rank 6
        scores = class_scores(ours, truth)
        assert scores["top1_match"].tolist() == [1.0, 0.0, 0.0]
        assert scores["top5_match"].tolist() == [1.0, 1.0, 0.0]

    def test_fewer_than_five_classes_always_match_among_five(self):
        scores = class_scores(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        assert scores["top1_match"].tolist() == [0.0]
        assert scores["top5_match"].tolist() == [1.0]


def pairwise_by_loop(maps: Tensor) -> Tensor:
    """One minus the mean cosine at each location, over pairs of samples of each image."""
    values = []
    for samples in maps:
        distances = [
            1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=0).mean()
            for a, b in combinations(samples, 2)
        ]
        values.append(torch.stack(distances).mean())
    return torch.stack(values)


class TestMeanPairwiseDistance:
    @pytest.mark.parametrize("samples", [2, 3, 5])
    def test_equals_a_loop_over_pairs(self, samples):
        maps = normal(4, samples, 6, 3, 2, seed=9)
        assert torch.allclose(mean_pairwise_distance(maps), pairwise_by_loop(maps), atol=1e-5)

    def test_equal_samples_have_no_spread(self):
        maps = normal(2, 1, 6, 3, 3, seed=10).expand(-1, 4, -1, -1, -1)
        assert torch.allclose(mean_pairwise_distance(maps), torch.zeros(2), atol=1e-6)

    def test_a_location_without_any_activation_counts_as_in_the_loop(self):
        maps = normal(1, 3, 6, 2, 2, seed=11)
        maps[:, :, :, 0, 0] = 0.0
        assert torch.allclose(mean_pairwise_distance(maps), pairwise_by_loop(maps), atol=1e-5)


class TestSpreadOfImages:
    def test_image_spread_is_the_mean_distance_of_pairs(self):
        samples = torch.tensor([0.0, 0.3, 0.9]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 4, 4)
        assert float(image_spread(samples)) == pytest.approx((0.3 + 0.6 + 0.9) / 3, abs=1e-6)

    def test_image_spread_is_a_root_mean_square(self):
        samples = torch.zeros(1, 2, 3, 2, 2)
        samples[0, 1, 0, 0, 0] = 1.0  # one of twelve values differs by 1
        assert float(image_spread(samples)) == pytest.approx(math.sqrt(1 / 12), abs=1e-6)

    def test_pixel_spread_of_two_values_is_half_their_difference(self):
        samples = torch.zeros(1, 2, 3, 2, 2)
        samples[0, 1, :, 0, 1] = 1.0
        assert pixel_spread(samples).tolist() == [[[0.0, 0.5], [0.0, 0.0]]]

    def test_pixel_spread_averages_the_variance_of_colours(self):
        samples = torch.zeros(1, 2, 3, 1, 1)
        samples[0, 1, 2] = 1.0
        assert float(pixel_spread(samples)) == pytest.approx(math.sqrt(0.25 / 3), abs=1e-6)


class TestImageScores:
    @pytest.mark.parametrize("error", [0.5, 0.1, 0.001])
    def test_psnr_of_a_constant_error(self, error):
        truth = torch.full((2, 3, 16, 16), 0.25)
        psnr = image_scores(truth + error, truth)["psnr_db"]
        assert torch.allclose(psnr, torch.full((2,), -20 * math.log10(error)), atol=1e-3)

    def test_equal_images_have_ssim_one_and_a_finite_psnr(self):
        images = normal(2, 3, 16, 16, seed=12).sigmoid()
        scores = image_scores(images, images)
        assert torch.allclose(scores["ssim"], torch.ones(2), atol=1e-5)
        assert torch.allclose(scores["psnr_db"], torch.full((2,), 100.0))

    def test_noise_lowers_ssim_and_each_image_has_its_own_value(self):
        truth = normal(2, 3, 16, 16, seed=13).sigmoid()
        ours = truth.clone()
        ours[1] = (ours[1] + 0.3 * normal(3, 16, 16, seed=14)).clamp(0, 1)
        ssim = image_scores(ours, truth)["ssim"]
        assert float(ssim[0]) == pytest.approx(1.0, abs=1e-5)
        assert float(ssim[1]) < 0.9

    def test_no_lpips_without_its_weights(self, tmp_path: Path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        images = torch.zeros(1, 3, 16, 16)
        assert set(image_scores(images, images)) == {"psnr_db", "ssim"}

    def test_no_fid_without_inception(self, tmp_path: Path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
        assert inception_distances([images], [images], 0, torch.device("cpu")) == {}

    def test_fid_and_kid_with_inception(self, tmp_path: Path, monkeypatch):
        """Untrained weights in the file that the trained ones come in."""
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
        untrained_inception(images)
        same = inception_distances([images[:2], images[2:]], [images], 0, torch.device("cpu"))
        other = inception_distances([images // 4], [images], 0, torch.device("cpu"))
        assert same["fid"] == pytest.approx(0, abs=1e-2)
        assert same["kid"] <= 0  # unbiased: without what an image has in common with itself
        assert other["fid"] > 1 and other["kid"] > 0.1


def untrained_inception(images: Tensor) -> None:
    """Write Inception of random weights, its norms fitted to the images, to torch's hub cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {}
        )
        patch.setattr(nn.Module, "load_state_dict", lambda *_: None)
        network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3("untrained", ["2048"])
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    network.train()(images)
    file = Path(torch.hub.get_dir()) / "checkpoints/weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir(parents=True)
    torch.save(network.state_dict(), file)


def vectors_with_moments(mean: np.ndarray, covariance: np.ndarray, seed: int, count=64) -> Tensor:
    """Vectors whose sample mean and covariance are exactly the given ones."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    centred = raw - raw.mean(0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


class TestFrechetDistance:
    def test_gaussians_with_diagonal_covariances(self):
        # |mu1 - mu2|^2 + sum (s1 - s2)^2 of the deviations.
        first = vectors_with_moments(np.array([1.0, -2.0, 0.0]), np.diag([1.0, 4.0, 9.0]), 0)
        second = vectors_with_moments(np.array([0.0, 1.0, 0.5]), np.diag([4.0, 0.25, 9.0]), 1)
        expected = (1 + 9 + 0.25) + (1 + 2.25 + 0)
        assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6)

    def test_gaussians_whose_covariances_do_not_commute(self):
        # For 2x2 matrices: tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det AB)).
        a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 4.0]])
        root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
        expected = np.trace(a) + np.trace(b) - 2 * root
        first = vectors_with_moments(np.zeros(2), a, 2)
        second = vectors_with_moments(np.zeros(2), b, 3)
        assert frechet_distance(first, second) == pytest.approx(expected, abs=1e-6)

    def test_a_set_has_no_distance_to_itself(self):
        vectors = normal(80, 6, seed=15)
        assert frechet_distance(vectors, vectors) == pytest.approx(0.0, abs=1e-6)

    @pytest.mark.parametrize("count", [80, 5])  # 5 vectors of 6 numbers: a singular covariance
    def test_is_symmetric(self, count):
        ours, truth = normal(count, 6, seed=16), 1 + 2 * normal(90, 6, seed=17)
        there, back = frechet_distance(ours, truth), frechet_distance(truth, ours)
        assert there > 1.0
        assert there == pytest.approx(back, rel=1e-5)

    def test_fewer_vectors_than_dimensions_are_still_zero_from_themselves(self):
        vectors = normal(10, 40, seed=18)
        assert frechet_distance(vectors, vectors) == pytest.approx(0.0, abs=1e-4)


class TestMeanInterval:
    def test_the_same_seed_gives_the_same_interval_and_another_a_different_one(self):
        values = np.random.default_rng(0).normal(size=30)
        assert mean_interval(values, 1) == mean_interval(values, 1)
        assert mean_interval(values, 1) != mean_interval(values, 2)

    def test_a_constant_has_an_interval_of_no_width(self):
        assert mean_interval(np.full(20, 0.75), 0) == (0.75, 0.75, 0.75)

    def test_width_is_that_of_the_normal_approximation(self):
        values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
        mean, low, high = mean_interval(values, 0)
        half = 1.96 * values.std() / math.sqrt(400)
        assert mean == pytest.approx(values.mean())
        assert low == pytest.approx(mean - half, abs=0.2 * half)
        assert high == pytest.approx(mean + half, abs=0.2 * half)

    def test_a_lower_level_gives_a_narrower_interval(self):
        values = np.random.default_rng(2).normal(size=50)
        _, low, high = mean_interval(values, 0, level=0.95)
        _, inner_low, inner_high = mean_interval(values, 0, level=0.5)
        assert low < inner_low < inner_high < high

    def test_covers_the_true_mean_about_as_often_as_it_says(self):
        rng = np.random.default_rng(3)
        trials = [mean_interval(rng.normal(1.0, 1.0, size=40), seed) for seed in range(300)]
        covered = np.mean([low <= 1.0 <= high for _, low, high in trials])
        assert 0.89 <= covered <= 0.98  # 95 % less the percentile bootstrap's known shortfall


class TestMaskIou:
    def test_counts_pixels_of_both_over_pixels_of_either(self):
        found, truth = torch.zeros(4, 2, 3, dtype=torch.bool), torch.zeros(4, 2, 3).bool()
        found[0, 0], truth[0, :, 0] = True, True  # 3 and 2 pixels, 1 shared
        found[1], truth[1] = True, True
        truth[2, 0, 0] = True  # nothing found
        assert mask_iou(found, truth).tolist() == [0.25, 1.0, 0.0, 1.0]  # the last: both empty


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_image_has_its_own_class_also_where_stored_logits_tie(dtype: torch.dtype):
    logits = 3 * normal(3000, 1000)
    stored = logits.to(dtype)
    tied = stored == stored.amax(1, keepdim=True)
    assert int((tied.sum(1) > 1).sum()) > 5
    scores = class_scores(logits, stored)
    assert scores["top1_match"].min() == 1
    assert scores["top5_match"].min() == 1
    # And another image's class is no match for it.
    assert class_scores(logits.roll(1, 0), stored)["top1_match"].mean() < 0.02
