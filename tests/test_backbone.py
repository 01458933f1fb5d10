"""Backbones of four families as functions to NCHW maps, of any layer."""

import pytest
import torch
from small_backbones import FAMILIES, backbone_of

from sacd.backbones.layout import to_nchw
from sacd.errors import SacdError

SHAPES = {
    "resnet18": (12, 2, 2),
    "convnext_atto": (10, 2, 2),
    "swinv2_tiny_window8_256": (16, 4, 4),
    "vit_tiny_patch16_224": (12, 4, 4),
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class TestMaps:
    @pytest.mark.parametrize("model", FAMILIES)
    def test_every_family_gives_channels_first_maps_and_logits(self, model: str, images):
        features, logits = backbone_of(model)(images)
        assert features.shape == (2, *SHAPES[model])
        assert logits is not None
        assert logits.shape == (2, 3)

    @pytest.mark.parametrize("model", FAMILIES)
    def test_each_image_has_its_own_map(self, model: str, images):
        backbone = backbone_of(model)
        both, _ = backbone(images)
        assert not torch.allclose(both[0], both[1])
        for row in range(2):
            assert torch.allclose(backbone(images[row : row + 1])[0][0], both[row], atol=1e-5)

    def test_channels_last_maps_keep_their_places(self, images):
        backbone = backbone_of("swinv2_tiny_window8_256")
        raw = backbone.network.forward_features(backbone.preprocess(images))
        features, _ = backbone(images)
        for i, j in ((0, 0), (1, 3), (3, 2)):
            assert torch.equal(features[:, :, i, j], raw[:, i, j])

    def test_tokens_become_a_map_without_the_class_token(self, images):
        backbone = backbone_of("vit_tiny_patch16_224")
        raw = backbone.network.forward_features(backbone.preprocess(images))
        assert raw.shape == (2, 17, 12)
        features, _ = backbone(images)
        for i, j in ((0, 0), (1, 3), (3, 2)):
            assert torch.equal(features[:, :, i, j], raw[:, 1 + 4 * i + j])

    def test_logits_are_the_networks_own(self, images):
        backbone = backbone_of("convnext_atto")
        _, logits = backbone(images)
        assert torch.equal(logits, backbone.network(backbone.preprocess(images)))

    def test_no_head_gives_no_logits(self, images):
        backbone = backbone_of("resnet18", classes=0)
        features, logits = backbone(images)
        assert logits is None
        assert not backbone.has_head
        assert features.shape == (2, 12, 2, 2)

    def test_nothing_of_it_trains_or_keeps_batch_statistics(self, images):
        backbone = backbone_of("resnet18")
        before = {name: value.clone() for name, value in backbone.network.state_dict().items()}
        backbone(images)
        assert not any(p.requires_grad for p in backbone.parameters())
        for name, value in backbone.network.state_dict().items():
            assert torch.equal(value, before[name]), name


class TestLayers:
    def test_a_tapped_layer_is_that_layers_output(self, images):
        backbone = backbone_of("resnet18", layer="layer2")
        network, x = backbone.network, backbone.preprocess(images)
        stem = network.maxpool(network.act1(network.bn1(network.conv1(x))))
        features, logits = backbone(images)
        assert torch.equal(features, network.layer2(network.layer1(stem)))
        assert torch.equal(logits, network(x))

    def test_what_follows_does_not_change_what_was_tapped(self, images):
        """timm's ResNet lets its activations work in place."""
        backbone = backbone_of("resnet18", layer="bn1")
        network, x = backbone.network, backbone.preprocess(images)
        features, _ = backbone(images)
        assert torch.equal(features, network.bn1(network.conv1(x)))
        assert bool((features < 0).any())

    def test_a_tapped_transformer_block_is_a_map_too(self, images):
        backbone = backbone_of("vit_tiny_patch16_224", layer="blocks.0")
        features, _ = backbone(images)
        assert features.shape == (2, 12, 4, 4)
        assert not torch.allclose(features, backbone_of("vit_tiny_patch16_224")(images)[0])

    def test_a_layer_before_the_class_token_loses_none_of_its_patches(self, images):
        backbone = backbone_of("vit_tiny_patch16_224", layer="patch_embed")
        patches = backbone.network.patch_embed(backbone.preprocess(images))
        assert patches.shape == (2, 16, 12)
        assert torch.equal(backbone(images)[0].flatten(2).mT, patches)

    def test_a_tapped_stage_of_swin_is_channels_first(self, images):
        assert backbone_of("swinv2_tiny_window8_256", "layers.0")(images)[0].shape == (2, 8, 8, 8)

    @pytest.mark.parametrize("last_map", ["NCHW", "NHWC"])
    def test_a_layer_is_turned_by_its_own_axes_and_not_by_the_last_maps(self, last_map: str):
        network = torch.nn.Identity()
        network.output_fmt = last_map
        first = torch.rand(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(to_nchw(first, network), first)
        assert torch.equal(to_nchw(first.permute(0, 2, 3, 1), network), first)
        cube = first[:, :, :5, :5]  # here only the network can tell
        given = cube if last_map == "NCHW" else cube.permute(0, 2, 3, 1)
        assert torch.equal(to_nchw(given, network), cube)

    def test_an_unknown_layer_names_the_nearest_and_lists_all(self):
        with pytest.raises(SacdError, match=r"layer of resnet18 'layer33'\. Did you") as caught:
            backbone_of("resnet18", layer="layer33")
        assert "Did you mean 'layer3'?" in str(caught.value)
        for choice in ("forward_features", "layer1", "layer4.0", "maxpool"):
            assert choice in str(caught.value)

    def test_an_unknown_layer_deep_inside_names_the_nearest_and_not_hundreds(self):
        with pytest.raises(SacdError, match=r"Did you mean 'blocks\.1\.mlp\.fc1'\?") as caught:
            backbone_of("vit_tiny_patch16_224", layer="blocks.1.mlp.fc_1")
        assert "blocks.1.mlp.fc2" in str(caught.value)
        assert "blocks.0.attn.qkv" not in str(caught.value)

    def test_a_layer_that_gives_vectors_is_refused(self, images):
        with pytest.raises(SacdError, match=r"\(9, 12\) .* not a map of") as caught:
            backbone_of("resnet18", layer="global_pool")(images)
        assert "global_pool" in str(caught.value)

    def test_a_layer_that_does_not_run_is_named(self, images):
        with pytest.raises(SacdError, match="layer 'global_pool' of resnet18 is not run: name an"):
            backbone_of("resnet18", layer="global_pool", classes=0)

    def test_a_layer_inside_windowed_attention_is_refused(self, images):
        with pytest.raises(SacdError, match=r"layers\.0\.blocks\.0\.attn"):
            # its rows are windows, four an image
            backbone_of("swinv2_tiny_window8_256", layer="layers.0.blocks.0.attn")


class TestPreprocessing:
    def test_images_are_normalised_by_mean_and_deviation(self, images):
        found = backbone_of("resnet18").preprocess(images)
        for channel, (mean, std) in enumerate([(0.5, 0.25), (0.4, 0.2), (0.3, 0.1)]):
            expected = (images[:, channel] - mean) / std
            assert torch.allclose(found[:, channel], expected, atol=1e-6)

    def test_images_of_another_size_are_resized_and_stay_in_range(self, images):
        backbone = backbone_of("resnet18")
        enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert backbone.preprocess(enlarged).shape == (2, 3, 32, 32)
        flat = torch.full((1, 3, 50, 50), 0.5)
        expected = backbone.preprocess(torch.full((1, 3, 32, 32), 0.5))
        assert torch.allclose(backbone.preprocess(flat), expected, atol=1e-5)
        edges = (images > 0.5).float().repeat_interleave(2, 2).repeat_interleave(2, 3)
        red = backbone.preprocess(edges)[:, 0] * 0.25 + 0.5
        assert red.min() >= -1e-6
        assert red.max() <= 1 + 1e-6
