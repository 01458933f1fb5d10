"""timm models by name and options, and weights of files; what is said of wrong ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from small_backbones import FAMILIES, config_of

from sacd.backbones.backbone import Backbone, create_network, load_network, save_backbone
from sacd.errors import SacdError


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class TestUnknownModels:
    @pytest.mark.parametrize(
        ("wrong", "right"), [("resnet5O", "resnet50"), ("convnxt_base", "convnext_base")]
    )
    def test_the_nearest_name_is_proposed(self, wrong: str, right: str):
        with pytest.raises(
            SacdError, match=rf"unknown timm model '{wrong}'\. Did you mean '{right}'"
        ):
            create_network(config_of(wrong))

    def test_names_that_are_near_are_listed(self):
        with pytest.raises(SacdError, match=r"Known: .*\bresnet18\b") as caught:
            create_network(config_of("resnet5O"))
        assert "convnext" not in str(caught.value)

    def test_a_name_like_no_other_lists_none(self):
        with pytest.raises(SacdError, match=r"'qqq', and none is called alike: .*list_models\(\)"):
            create_network(config_of("qqq"))

    def test_a_name_with_a_tag_is_known_and_a_wrong_tag_is_named(self):
        options = FAMILIES["convnext_atto"]
        tagged = replace(config_of("convnext_atto.d2_in1k"), options=options)
        assert create_network(tagged).num_features == 10
        with pytest.raises(SacdError, match="d2_in2k"):
            create_network(replace(tagged, model="convnext_atto.d2_in2k"))

    @pytest.mark.parametrize(
        "options", [{"num_clases": 3}, {"output_stride": 5}, {"layers": 3}, {"channels": "wide"}]
    )
    def test_options_that_do_not_fit_are_named(self, options: dict[str, Any]):
        config = replace(config_of("resnet18"), options=options)
        (name,) = options
        with pytest.raises(SacdError, match=rf"'resnet18' cannot be made with .*{name}") as caught:
            create_network(config)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"features_only": True}, {"in_chans": 1}, {"pretrained": True},
            {"checkpoint_path": "weights.pth"}, {"pretrained_cfg_overlay": {"file": "weights.pth"}},
        ],
    )  # fmt: skip
    def test_options_that_would_load_weights_or_make_another_network_are_refused(
        self, options: dict[str, Any]
    ):
        config = replace(config_of("resnet18"), options=options)
        (name,) = options
        with pytest.raises(SacdError, match=rf"'resnet18': options\.{name} cannot be chosen"):
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
            match=r"other\.safetensors: not the weights of timm's resnet18 with options .*: .*"
            r"Missing key.* \"conv1\.weight\"\. Unexpected key.* \"module\.extra\"",
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

    @pytest.mark.parametrize("model", FAMILIES)
    @pytest.mark.parametrize("stored", [5, 0])
    def test_a_head_of_other_classes_or_none_is_left_out(
        self, tmp_path: Path, images: torch.Tensor, model: str, stored: int
    ):
        path, other = tmp_path / "other.safetensors", create_network(config_of(model, "", stored))
        save_file({k: v.contiguous() for k, v in other.state_dict().items()}, path)
        loaded = load_network(config_of(model), path)
        assert torch.equal(loaded.forward_features(images), other.eval().forward_features(images))
        backbone = Backbone(config_of(model), loaded)
        assert not backbone.has_head
        assert backbone(images)[1] is None
        save_backbone(tmp_path / "saved", backbone.config, loaded)
        again = Backbone.from_pretrained(tmp_path / "saved")
        assert set(again.network.state_dict()) == set(loaded.state_dict())

    def test_a_head_that_is_not_asked_for_is_left_out(self, tmp_path: Path):
        path, other = tmp_path / "three.safetensors", create_network(config_of("resnet18"))
        save_file(other.state_dict(), path)
        loaded = load_network(config_of("resnet18", classes=0), path)
        assert torch.equal(loaded.layer4[0].conv1.weight, other.layer4[0].conv1.weight)
        assert not hasattr(loaded.fc, "weight")

    def test_a_weight_that_is_missing_is_no_less_so_beside_a_head_of_other_classes(
        self, tmp_path: Path
    ):
        weights = create_network(config_of("resnet18", classes=5)).state_dict()
        del weights["layer1.0.conv1.weight"]
        save_file(weights, tmp_path / "part.safetensors")
        with pytest.raises(SacdError, match=r"part\.safetensors: .* \"layer1\.0\.conv1\.weight\""):
            load_network(config_of("resnet18"), tmp_path / "part.safetensors")

    def test_weights_of_another_model_are_refused(self, tmp_path: Path):
        weights = create_network(config_of("convnext_atto")).state_dict()
        save_file(weights, tmp_path / "convnext.safetensors")
        for model in ("resnet18", "vit_tiny_patch16_224"):
            with pytest.raises(SacdError, match=rf"not the weights of timm's {model}") as caught:
                load_network(config_of(model), tmp_path / "convnext.safetensors")
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "swinv2_tiny_window8_256"])
    @pytest.mark.parametrize("name", ["larger.safetensors", "larger"])
    def test_weights_for_another_image_size_are_resampled_as_timm_does(
        self, tmp_path: Path, model: str, name: str
    ):
        config = config_of(model)
        larger = replace(config, options=config.options | {"img_size": 64})
        path = tmp_path / "larger.safetensors"
        save_file({k: v.contiguous() for k, v in create_network(larger).state_dict().items()}, path)
        theirs = timm.create_model(
            model, pretrained=True, **config.options,
            pretrained_cfg_overlay={"file": str(path), "num_classes": 3},
        )  # fmt: skip
        ours = load_network(config, path.rename(tmp_path / name))
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
