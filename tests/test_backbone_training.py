"""Supervised training of a backbone."""

from pathlib import Path

import pytest
import torch
from small_backbones import config_of

from sacd.backbones.backbone import Backbone, create_network
from sacd.backbones.training import FLIPS, Augmentation, augment, train_backbone
from sacd.optimization import Recipe

JITTER = Augmentation(color_jitter=0.2)


def colour_problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of two classes told by a red square on the left, its masks, and the labels."""
    labels = torch.arange(32) % 2
    images = torch.randint(
        100, (32, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    masks = torch.zeros(32, 32, 32, dtype=torch.bool)
    masks[:, 4:28, :16] = True
    images[:, 0] += (masks & (labels == 1)[:, None, None]).byte() * 150
    return images, masks, labels


class TestTraining:
    @pytest.mark.parametrize("dense", [False, True])
    def test_a_network_learns_and_evaluates_as_it_was_trained(self, tmp_path: Path, dense: bool):
        images, masks, labels = colour_problem()
        recipe = Recipe(40, 16, 0.01, 4, "cosine", 0.0, 0.8, 1.0, "fp32", 0)
        config = config_of("resnet18", classes=2)
        network = create_network(config)
        trained = train_backbone(
            config, network, images, labels, masks if dense else None, recipe,
            Augmentation(0.1, 0.5, 0.02), tmp_path, torch.device("cpu"), lambda items, total: items,
        )  # fmt: skip
        assert trained.history[-1]["train_top1"] > 0.9
        logits = Backbone(config, network)(images.float() / 255)[1]
        assert (logits.argmax(1) == labels).float().mean() > 0.9
        assert set(network.state_dict()) == set(create_network(config).state_dict())
        for name, parameter in network.named_parameters():
            assert torch.equal(parameter, trained.weights[f"network.{name}"]), name

    @pytest.mark.parametrize(
        ("steps", "given", "counted", "relative"),
        [(12, 32, 32, 1e-3), (3, 17, 16, 1e-5)],  # a rest of a batch is no batch
    )
    def test_batch_norms_hold_the_statistics_of_the_averaged_weights(
        self, tmp_path: Path, steps: int, given: int, counted: int, relative: float
    ):
        images, _, labels = colour_problem()
        recipe = Recipe(steps, 16, 0.02, 1, "constant", 0.0, 0.9, 1.0, "fp32", 0)
        config = config_of("resnet18", classes=2)
        network = create_network(config)
        train_backbone(
            config, network, images[:given], labels[:given], None, recipe, FLIPS,
            tmp_path, torch.device("cpu"), lambda items, total: items,
        )  # fmt: skip
        seen = Backbone(config, network).preprocess(images[:counted].float() / 255)
        with torch.no_grad():
            expected = network.conv1(seen).mean((0, 2, 3))
        assert torch.allclose(network.bn1.running_mean, expected, rtol=relative, atol=1e-4)

    def test_blur_removes_detail_and_noise_adds_it_each_image_by_its_own_amount(self):
        board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 0.5 + 0.25
        images = board.expand(64, 3, 16, 16)
        blurred = augment(images, Augmentation(blur=1.0), torch.Generator().manual_seed(1))
        contrast = blurred[:, :, 4:12, 4:12].std((1, 2, 3)) / images[0, :, 4:12, 4:12].std()
        assert contrast.max() > 0.9
        assert contrast.min() < 0.1
        flat = torch.full((64, 3, 16, 16), 0.5)
        noise = augment(flat, Augmentation(noise=0.1), torch.Generator().manual_seed(1)) - flat
        deviations = noise.std((1, 2, 3))
        assert deviations.min() < 0.02
        assert 0.08 < float(deviations.max()) < 0.12
        assert float(noise.mean()) == pytest.approx(0.0, abs=1e-3)

    def test_augmentation_flips_whole_images(self):
        images = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        flipped = augment(images, FLIPS, torch.Generator().manual_seed(1))
        same = (flipped == images).flatten(1).all(1)
        mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
        assert bool((same ^ mirrored).all())
        assert 16 < int(mirrored.sum()) < 48

    def test_augmentation_scales_each_colour_of_an_image(self):
        jittered = augment(torch.full((64, 3, 4, 4), 0.5), JITTER, torch.Generator().manual_seed(1))
        assert jittered.min() >= 0.4
        assert jittered.max() <= 0.6
        assert float(jittered.std((2, 3)).max()) == pytest.approx(0.0, abs=1e-6)
        assert float(jittered[:, :, 0, 0].std(1).min()) > 0

    def test_masks_are_flipped_with_their_images_and_not_coloured(self):
        images = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        joined = torch.cat([images, (images[:, :1] > 0.5).float()], dim=1)
        plain = augment(joined, FLIPS, torch.Generator().manual_seed(1))
        assert torch.equal(plain[:, 3], (plain[:, 0] > 0.5).float())
        coloured = augment(joined, JITTER, torch.Generator().manual_seed(1))
        assert torch.equal(coloured[:, 3], plain[:, 3])
        assert not torch.equal(coloured[:, :3], plain[:, :3])
