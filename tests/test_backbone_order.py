"""Layers are maps in the order of the image, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sacd.backbones.backbone import Backbone, BackboneConfig, create_network
from sacd.backbones.layout import maps_of
from sacd.backbones.order import ALIGNED, alignment, changed_squares, scattered
from sacd.errors import SacdError

HALF, QUARTER = (0.5,) * 3, (0.25,) * 3


def backbone_of(model: str, size: int, layer: str = "forward_features", **options: Any) -> Backbone:
    torch.manual_seed(1)
    config = BackboneConfig(model, {"num_classes": 3, **options}, size, HALF, QUARTER, layer)
    return Backbone(config, create_network(config))


def patches(side: int, size: int = 128) -> Tensor:
    """Mean colours of patches, as three channels and their mixtures, for `changed_squares`."""
    means = F.adaptive_avg_pool2d(changed_squares(size), side)
    mixed = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    return torch.einsum("cd,ndhw->nchw", mixed, means)


def by_windows(features: Tensor) -> Tensor:
    """The tokens of one window of 2 x 2 after the other, as rows of a map."""
    windows = F.unfold(features, 2, stride=2).unflatten(1, (-1, 4)).transpose(2, 3)
    return windows.flatten(2).unflatten(2, features.shape[-2:])


def shuffled(features: Tensor) -> Tensor:
    count = features.shape[-1] * features.shape[-2]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return features.flatten(2)[:, :, order].unflatten(2, features.shape[-2:])


class TestAlignment:
    @pytest.mark.parametrize("side", [2, 4, 7, 8, 14, 32])
    def test_maps_in_place_are_aligned_also_under_what_all_locations_share(self, side: int):
        features = patches(side)
        everywhere = torch.randn(9, 8, 1, 1, generator=torch.Generator().manual_seed(1))
        assert alignment(features) > ALIGNED
        assert alignment(features + 100 * everywhere) > ALIGNED

    @pytest.mark.parametrize("side", [8, 14, 32])
    @pytest.mark.parametrize(
        "reorder",
        [
            shuffled, by_windows, lambda x: x.transpose(2, 3), lambda x: x.flip(2),
            lambda x: x.flip(3), lambda x: x.flip(2, 3), lambda x: x.roll(x.shape[-1] // 2, 3),
        ],
        ids=["shuffled", "windows", "transposed", "top down", "mirrored", "turned", "rolled"],
    )  # fmt: skip
    def test_maps_in_another_order_are_not_and_are_told_from_mixtures(
        self, side: int, reorder: Callable[[Tensor], Tensor]
    ):
        features = reorder(patches(side))
        assert alignment(features) < ALIGNED
        assert scattered(features)

    @pytest.mark.parametrize("side", [7, 14])
    def test_what_mixes_all_locations_is_neither_aligned_nor_scattered(self, side: int):
        mixing = torch.randn(side**2, side**2, generator=torch.Generator().manual_seed(2))
        features = (patches(side).flatten(2) @ mixing).unflatten(2, (side, side))
        assert alignment(features) < ALIGNED
        assert not scattered(features)

    def test_what_does_not_change_is_neither_aligned_nor_scattered_whatever_rounding_does(self):
        features = torch.rand(1, 8, 7, 7, generator=torch.Generator().manual_seed(3))
        features = features.repeat(9, 1, 1, 1)
        features[3, 2, 4, 4] = features[3, 2, 4, 4].nextafter(torch.tensor(2.0))
        assert alignment(features) < ALIGNED
        assert not scattered(features)


class TestOrder:
    @pytest.mark.parametrize(
        ("model", "size", "layer", "options"),
        [
            ("resnet18", 128, "layer3", {}),
            ("densenet121", 64, "features.transition1", {"block_config": (2, 2, 2, 2)}),
            ("swin_tiny_patch4_window7_224", 224, "layers.1", {"depths": (1, 1, 1, 1)}),
            ("deit_tiny_distilled_patch16_224", 224, "blocks.1", {"depth": 2}),
            ("vit_small_patch14_reg4_dinov2", 98, "blocks.1.attn", {"img_size": 98, "depth": 2}),
            ("eva02_tiny_patch14_224", 224, "forward_features", {"depth": 2}),
            ("nest_tiny", 64, "levels.0", {"img_size": 64}),
            ("volo_d1_224", 64, "forward_features", {"img_size": 64}),
            ("hiera_tiny_224", 224, "forward_features", {}),
            ("xcit_nano_12_p16_224", 224, "forward_features", {"depth": 2}),
        ],
    )
    def test_a_layer_changes_where_the_image_does(
        self, model: str, size: int, layer: str, options: dict[str, Any]
    ):
        backbone = backbone_of(model, size, layer, **options)
        for down, across in ((0.625, 0.375), (0.25, 0.75)):
            images = torch.full((2, 3, size, size), 0.4)
            top, left, half = int(down * size), int(across * size), size // 16
            images[1, :, top - half : top + half, left - half : left + half] = 0.9
            first, second = backbone(images)[0]
            change = second - first
            change = (change - change.mean((1, 2), keepdim=True)).norm(dim=0)
            rows, columns = ((torch.arange(count) + 0.5) / count for count in change.shape)
            weights = change.square() / change.square().sum()
            assert float(weights.sum(1) @ rows) == pytest.approx(down, abs=0.13)
            assert float(weights.sum(0) @ columns) == pytest.approx(across, abs=0.13)

    @pytest.mark.parametrize(
        ("model", "size", "layer", "options"),
        [
            ("hiera_tiny_224", 224, "blocks.0", {}),
            ("hiera_tiny_224", 224, "blocks.5.norm2", {}),
            ("hieradet_small", 256, "blocks.0.attn.qkv", {}),
            ("cait_xxs24_224", 224, "blocks.0.attn.proj_l", {"depth": 1}),  # tokens by tokens
            ("nest_tiny", 64, "levels.0.transformer_encoder", {"img_size": 64}),
            ("swin_tiny_patch4_window7_224", 224, "layers.0.blocks.0.attn", {"depths": (1,) * 4}),
        ],
    )
    def test_what_is_no_map_in_this_order_is_refused(
        self, model: str, size: int, layer: str, options: dict[str, Any]
    ):
        with pytest.raises(SacdError, match=rf"layer '{layer}' of {model} gives .*: name another"):
            backbone_of(model, size, layer, **options)

    @pytest.mark.parametrize("layer", ["mlp", "mlp.fc1", "conv_dw"])
    def test_equal_axes_are_told_apart_by_the_map_and_not_by_the_shape(self, layer: str):
        """ConvNeXt's blocks work channels last inside."""
        options = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40), "conv_mlp": False}
        if layer != "mlp.fc1":  # of four times as many channels
            options["dims"] = (64, 24, 32, 40)
        name = f"stages.0.blocks.0.{layer}"
        backbone = backbone_of("convnext_atto", 256, name, **options)
        seen: list[Tensor] = []
        backbone.network.get_submodule(name).register_forward_hook(
            lambda module, given, output: seen.append(output)
        )
        features, _ = backbone(torch.rand(1, 3, 256, 256))
        assert features.shape == (1, 64, 64, 64)
        wanted = seen[0] if layer == "conv_dw" else seen[0].permute(0, 3, 1, 2)
        assert torch.equal(features, wanted)

    def test_tokens_have_the_shape_of_the_patch_grid(self):
        backbone = backbone_of("vit_tiny_patch16_224", 64, img_size=64, patch_size=(4, 16), depth=1)
        images = torch.rand(2, 3, 64, 64)
        features, _ = backbone(images)
        assert features.shape == (2, 192, 16, 4)
        tokens = backbone.network.forward_features(backbone.preprocess(images))
        assert torch.equal(features[:, :, 5, 2], tokens[:, 1 + 5 * 4 + 2])

    def test_a_map_that_shows_nothing_of_its_order_is_taken_as_timm_gives_it(self):
        """LeViT's last blocks are zero until they are trained."""
        backbone = backbone_of("levit_128s", 224)
        images = torch.rand(2, 3, 224, 224)
        features, _ = backbone(images)
        assert features.shape == (2, 384, 4, 4)
        tokens = backbone.network.forward_features(backbone.preprocess(images))
        assert torch.equal(features.flatten(2).mT, tokens)

    def test_a_map_of_one_location_is_refused(self):
        with pytest.raises(SacdError, match=r"a tensor \(9, 512, 1, 1\) for 9 images, not a map"):
            backbone_of("resnet18", 32)

    @pytest.mark.parametrize(
        ("prefixed", "count", "found"),
        [(1, 50, {"prefixed"}), (5, 9, {"prefixed", "tokens"}), (0, 50, set()), (1, 2, set())],
    )
    def test_sequences_that_may_be_maps(self, prefixed: int, count: int, found: set[str]):
        network = nn.Identity()
        network.num_prefix_tokens = prefixed
        assert set(maps_of(torch.rand(2, count, 3), network)) == found


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "size"),
        [("levit_128s", 200), ("swin_tiny_patch4_window7_224", 100), ("resnet18", 10**9)],
    )
    def test_a_size_that_does_not_fit_is_one_sentence(self, model: str, size: int):
        with pytest.raises(SacdError, match=rf"{model}: does not take images of .* {size} px") as e:
            backbone_of(model, size)
        assert "\n" not in str(e.value)

    def test_a_list_of_maps_is_refused(self):
        with pytest.raises(SacdError, match=r"crossvit_9_240 gives list for 9 images"):
            backbone_of("crossvit_9_240", 240)


class TestHeads:
    @pytest.mark.parametrize(
        ("model", "size", "follows"),
        [
            ("mixer_s32_224", 224, True),
            ("convnext_atto", 64, True),
            ("swinv2_cr_tiny_ns_224", 224, True),
            ("densenet121", 64, True),
            ("vit_tiny_patch16_224", 224, False),
            ("tnt_s_legacy_patch16_224", 224, False),
        ],
    )
    def test_classify_gives_the_networks_logits_or_none(self, model: str, size: int, follows: bool):
        backbone = backbone_of(model, size)
        features, logits = backbone(torch.rand(2, 3, size, size))
        found = backbone.classify(features)
        assert (found is not None) == follows
        assert logits is not None
        assert logits.shape == (2, 3)
        if found is not None:
            torch.testing.assert_close(found, logits)

    def test_no_head_follows_an_inner_layer(self):
        backbone = backbone_of("resnet18", 64, "layer4")
        assert backbone.classify(backbone(torch.rand(2, 3, 64, 64))[0]) is None
