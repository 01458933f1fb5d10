"""Backbones of four families as functions to NCHW maps, and what is said of wrong ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from sacd.backbones.backbone import (
    Backbone,
    BackboneConfig,
    create_network,
    load_network,
    save_backbone,
)
from sacd.backbones.layout import to_nchw
from sacd.backbones.training import FLIPS, Augmentation, augment, train_backbone
from sacd.errors import SacdError
from sacd.optimization import Recipe

JITTER = Augmentation(color_jitter=0.2)
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {
        "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 12], "stem_width": 8, "output_stride": 16,
    },
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [4, 6, 8, 10], "output_stride": 16},
    "swinv2_tiny_window8_256": {
        "img_size": 32, "patch_size": 4, "window_size": 4,
        "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2],
    },
    "vit_tiny_patch16_224": {
        "img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2,
    },
}  # fmt: skip
SHAPES = {
    "resnet18": (12, 2, 2),
    "convnext_atto": (10, 2, 2),
    "swinv2_tiny_window8_256": (16, 4, 4),
    "vit_tiny_patch16_224": (12, 4, 4),
}


def config_of(model: str, layer: str = "forward_features", classes: int = 3) -> BackboneConfig:
    options = {"num_classes": classes, **FAMILIES.get(model, {})}
    return BackboneConfig(model, options, 32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1), layer)


def backbone_of(model: str, layer: str = "forward_features", classes: int = 3) -> Backbone:
    torch.manual_seed(0)
    config = config_of(model, layer, classes)
    return Backbone(config, create_network(config))


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


class TestOrder:
    """Every accepted layer is a map in the order of the image."""

    @pytest.mark.parametrize(
        ("model", "layer"),
        [
            ("resnet18", "layer1"),
            ("swin_tiny_patch4_window7_224", "layers.1"),
            ("deit_tiny_distilled_patch16_224", "blocks.3"),
            ("nest_tiny", "levels.0"),
            ("volo_d1_224", "forward_features"),
            ("hiera_tiny_224", "forward_features"),
        ],
    )
    def test_it_changes_where_the_image_does(self, model: str, layer: str):
        torch.manual_seed(1)
        config = BackboneConfig(model, {}, 224, (0.5,) * 3, (0.25,) * 3, layer)
        backbone = Backbone(config, create_network(config))
        images = torch.full((2, 3, 224, 224), 0.4)
        images[1, :, 132:148, 76:92] = 0.9  # at 0.625 of the height and 0.375 of the width
        first, second = backbone(images)[0]
        changes = (second - first).norm(dim=0)
        side = changes.shape[-1]
        row, column = divmod(int(changes.argmax()), side)
        assert abs((row + 0.5) / side - 0.625) < 0.15
        assert abs((column + 0.5) / side - 0.375) < 0.15

    @pytest.mark.parametrize("layer", ["blocks.0", "blocks.2", "blocks.1.norm1"])
    def test_tokens_in_another_order_are_refused(self, layer: str):
        config = BackboneConfig("hiera_tiny_224", {}, 224, (0.5,) * 3, (0.25,) * 3, layer)
        with pytest.raises(
            SacdError, match=rf"layer '{layer}' of hiera_tiny_224: .* another order"
        ):
            Backbone(config, create_network(config))

    def test_equal_axes_are_told_apart_by_the_map_and_not_by_the_shape(self):
        options = {"depths": [1, 1, 1, 1], "dims": [16, 24, 32, 40]}
        layer = "stages.0.blocks.0.mlp.fc1"
        config = BackboneConfig("convnext_atto", options, 256, (0.5,) * 3, (0.25,) * 3, layer)
        backbone = Backbone(config, create_network(config))
        seen = []
        backbone.network.stages[0].blocks[0].mlp.fc1.register_forward_hook(
            lambda module, given, output: seen.append(output)
        )
        features, _ = backbone(torch.rand(1, 3, 256, 256))
        assert features.shape == (1, 64, 64, 64)
        channels_last = isinstance(backbone.network.stages[0].blocks[0].mlp.fc1, torch.nn.Linear)
        wanted = seen[0].permute(0, 3, 1, 2) if channels_last else seen[0]
        assert torch.equal(features, wanted)

    def test_a_map_of_one_location_is_refused(self):
        config = BackboneConfig("resnet18", {}, 32, (0.5,) * 3, (0.25,) * 3, "forward_features")
        with pytest.raises(SacdError, match=r"\(5, 512, 1, 1\) for 5 images, not a spatial map"):
            Backbone(config, create_network(config))

    @pytest.mark.parametrize(
        ("model", "size"), [("levit_128s", 200), ("swin_tiny_patch4_window7_224", 100)]
    )
    def test_a_size_that_does_not_fit_is_one_sentence(self, model: str, size: int):
        config = BackboneConfig(model, {}, size, (0.5,) * 3, (0.25,) * 3, "forward_features")
        with pytest.raises(SacdError, match=rf"{model}: does not take images of input_size {size}"):
            Backbone(config, create_network(config))

    @pytest.mark.parametrize(
        ("model", "follows"),
        [
            ("mixer_s32_224", True),
            ("vit_tiny_patch16_224", False),
            ("convnext_atto", True),
            ("swin_tiny_patch4_window7_224", True),
        ],
    )
    def test_classify_gives_the_networks_logits_or_none(self, model: str, follows: bool):
        config = BackboneConfig(model, {}, 224, (0.5,) * 3, (0.25,) * 3, "forward_features")
        backbone = Backbone(config, create_network(config))
        features, logits = backbone(torch.rand(2, 3, 224, 224))
        found = backbone.classify(features)
        assert (found is not None) == follows
        assert logits is not None
        if found is not None:
            torch.testing.assert_close(found, logits)

    def test_options_that_a_model_does_not_take_are_one_sentence(self):
        config = BackboneConfig("resnet18", {"layers": 3}, 64, (0.5,) * 3, (0.25,) * 3, "layer1")
        with pytest.raises(SacdError, match=r"timm model 'resnet18' cannot be made with") as caught:
            create_network(config)
        assert "\n" not in str(caught.value)


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
        for choice in ("forward_features", "layer1", "layer4.0.conv2", "maxpool"):
            assert choice in str(caught.value)

    def test_a_layer_that_gives_vectors_is_refused(self, images):
        with pytest.raises(SacdError, match=r"\(5, 12\).* not a spatial map") as caught:
            backbone_of("resnet18", layer="global_pool")(images)
        assert "global_pool" in str(caught.value)

    def test_a_layer_that_does_not_run_is_named(self, images):
        with pytest.raises(SacdError, match="global_pool"):
            backbone_of("resnet18", layer="global_pool", classes=0)(images)

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


class TestUnknownModels:
    @pytest.mark.parametrize(
        ("wrong", "right"), [("resnet5O", "resnet50"), ("convnxt_base", "convnext_base")]
    )
    def test_the_nearest_name_is_proposed(self, wrong: str, right: str):
        with pytest.raises(
            SacdError, match=rf"unknown timm model '{wrong}'\. Did you mean '{right}'"
        ):
            create_network(config_of(wrong))

    def test_names_that_are_known_are_listed(self):
        with pytest.raises(SacdError, match=r"Known: .*\bresnet18\b"):
            create_network(config_of("resnet5O"))

    def test_a_name_with_a_tag_is_known_and_a_wrong_tag_is_named(self):
        options = FAMILIES["convnext_atto"]
        tagged = replace(config_of("convnext_atto.d2_in1k"), options=options)
        assert create_network(tagged).num_features == 10
        with pytest.raises(SacdError, match="d2_in2k"):
            create_network(replace(tagged, model="convnext_atto.d2_in2k"))

    @pytest.mark.parametrize("options", [{"num_clases": 3}, {"output_stride": 5}])
    def test_options_that_do_not_fit_are_named(self, options: dict[str, int]):
        config = replace(config_of("resnet18"), options=options)
        (name,) = options
        with pytest.raises(SacdError, match=rf"'resnet18' cannot be made with .*{name}"):
            create_network(config)

    def test_weights_too_large_for_half_precision_are_refused(self, tmp_path: Path, tiny_backbone):
        backbone = tiny_backbone()
        backbone.network.bn1.running_var[0] = 1e6
        with pytest.raises(SacdError, match=r"not finite in half precision: bn1\.running_var"):
            save_backbone(tmp_path / "tiny", backbone.config, backbone.network)
        assert not (tmp_path / "tiny").exists()

    def test_weights_that_cannot_be_had_name_the_way_out(self, monkeypatch, tmp_path: Path):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        config = replace(config_of("resnet18.a1_in1k"), options={})
        with pytest.raises(SacdError, match=r"Weights of 'resnet18\.a1_in1k' .*local safetensors"):
            create_network(config, pretrained=True)


class TestWeights:
    def test_a_saved_backbone_comes_back(self, tmp_path: Path, images, tiny_backbone: Callable):
        backbone = tiny_backbone(layer="layer3")
        save_backbone(tmp_path / "tiny", backbone.config, backbone.network)
        again = Backbone.from_pretrained(tmp_path / "tiny")
        assert again.config == backbone.config
        saved = load_file(tmp_path / "tiny/model.safetensors")
        assert {v.dtype for v in saved.values() if v.is_floating_point()} == {torch.float16}
        for name, value in backbone.network.state_dict().items():
            kept = value.half().float() if value.is_floating_point() else value
            assert torch.equal(again.network.state_dict()[name], kept), name
        assert torch.allclose(again(images)[0], backbone(images)[0], rtol=0.05, atol=0.05)

    def test_a_missing_file(self, tmp_path: Path):
        with pytest.raises(SacdError, match=r"absent\.safetensors: no such weights file"):
            load_network(config_of("resnet18"), tmp_path / "absent.safetensors")

    def test_a_file_that_is_no_weights_file(self, tmp_path: Path):
        path = tmp_path / "broken.safetensors"
        path.write_bytes(b"PK\x03\x04 not at all")
        with pytest.raises(SacdError, match=r"broken\.safetensors: not a readable safetensors"):
            load_network(config_of("resnet18"), path)

    def test_missing_and_unexpected_keys_are_counted_and_named(self, tmp_path: Path):
        network = create_network(config_of("resnet18"))
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        weights["module.extra"] = weights.pop("conv1.weight")
        save_file(weights, tmp_path / "other.safetensors")
        with pytest.raises(
            SacdError,
            match=r"other\.safetensors: not the weights of timm's resnet18 with options .*: "
            r"missing \['conv1\.weight'\], unexpected \['module\.extra'\] \(1 and 1 keys",
        ):
            load_network(config_of("resnet18"), tmp_path / "other.safetensors")

    def test_weights_of_another_shape_are_named(self, tmp_path: Path):
        wider = replace(
            config_of("resnet18"),
            options=FAMILIES["resnet18"] | {"num_classes": 3, "channels": [12, 8, 8, 12]},
        )
        save_file(create_network(wider).state_dict(), tmp_path / "wide.safetensors")
        with pytest.raises(SacdError, match=r"wide\.safetensors: not the weights of .*layer1"):
            load_network(config_of("resnet18"), tmp_path / "wide.safetensors")

    def test_a_head_of_other_classes_is_left_out(self, tmp_path: Path):
        other = create_network(config_of("resnet18", classes=5))
        save_file(other.state_dict(), tmp_path / "five.safetensors")
        loaded = load_network(config_of("resnet18"), tmp_path / "five.safetensors")
        assert torch.equal(loaded.layer4[0].conv1.weight, other.layer4[0].conv1.weight)
        assert not Backbone(config_of("resnet18"), loaded).has_head

    @pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "swinv2_tiny_window8_256"])
    def test_weights_for_another_image_size_are_resampled_as_timm_does(
        self, tmp_path: Path, model: str
    ):
        config = config_of(model)
        larger = replace(config, options=config.options | {"img_size": 64})
        path = tmp_path / "larger.safetensors"
        save_file({k: v.contiguous() for k, v in create_network(larger).state_dict().items()}, path)
        theirs = timm.create_model(
            model, pretrained=True, **config.options,
            pretrained_cfg_overlay={"file": str(path), "num_classes": 3},
        )  # fmt: skip
        ours = load_network(config, path)
        assert ours.num_classes == 3
        x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        assert torch.equal(ours(x), theirs.eval()(x))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers_are_refused(self, tmp_path: Path, value: float):
        weights = create_network(config_of("resnet18")).state_dict()
        weights["layer2.0.conv1.weight"][0, 0, 0, 0] = value
        save_file(weights, tmp_path / "broken.safetensors")
        with pytest.raises(SacdError, match=r"broken\.safetensors: 'layer2\.0\.conv1\.weight'"):
            load_network(config_of("resnet18"), tmp_path / "broken.safetensors")

    def test_half_precision_files_load_into_single_precision_networks(self, tmp_path: Path):
        network = create_network(config_of("resnet18"))
        halved = {
            name: value.half() if value.is_floating_point() else value
            for name, value in network.state_dict().items()
        }
        save_file(halved, tmp_path / "half.safetensors")
        loaded = load_network(config_of("resnet18"), tmp_path / "half.safetensors")
        assert loaded.conv1.weight.dtype == torch.float32
        assert torch.equal(loaded.conv1.weight, halved["conv1.weight"].float())


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
