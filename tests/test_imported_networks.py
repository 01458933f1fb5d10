"""Networks that are imported: what is said where they are used otherwise than timm says."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from small_backbones import config_of

from pipeline.networks import obtain_network
from pipeline.settings.sections import BackboneSettings
from sacd.backbones.backbone import create_network

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
INCEPTION = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.fixture
def imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call with a model, its stored classes and changes of its section, for what is printed."""

    def call(model: str, stored: int = 3, **changes: Any) -> str:
        config, path = config_of(model, classes=stored), tmp_path / "weights.safetensors"
        weights = create_network(config).state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
        section = {
            "source": str(path), "model": model, "options": config_of(model).options,
            "input_size": 32, "layer": "forward_features", "training": None, "finetune": None,
        }  # fmt: skip
        _, network, origin = obtain_network(
            BackboneSettings(**section | IMAGENET | changes), 0, "backbones.mine"
        )
        assert origin == {"imported": str(path)}
        assert network.num_classes == (3 if stored == 3 else 0)
        return capsys.readouterr().err

    return call


def test_nothing_is_said_where_images_are_prepared_as_timm_says(imported: Any):
    assert imported("convnext_atto") == ""
    assert imported("vit_tiny_patch16_224", **INCEPTION) == ""


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ("convnext_atto", INCEPTION, ["mean (0.5, 0.5, 0.5) (timm: (0.485, 0.456, 0.406))", "std"]),
        ("vit_tiny_patch16_224", {}, ["mean (0.485, 0.456, 0.406) (timm: (0.5, 0.5, 0.5))", "std"]),
        ("resnet18.tv_in1k", {}, ["interpolation bicubic (timm: bilinear)"]),
    ],
)
def test_one_line_tells_what_is_otherwise(
    imported: Any, model: str, changes: dict[str, Any], said: list[str]
):
    printed = imported(model, **changes)
    assert printed.count("\n") == 1
    assert printed.startswith("warning: backbones.mine: images are not prepared as timm's")
    for part in said:
        assert part in printed
    assert ("mean" in printed) == ("std" in printed) == ("mean" in said[0])


def test_a_head_that_is_left_out_is_told(imported: Any):
    printed = imported("convnext_atto", stored=7)
    assert printed.count("\n") == 1
    assert "backbones.mine: the backbone has no head" in printed
    assert "weights.safetensors" in printed
    no_head = config_of("convnext_atto", classes=0).options
    assert imported("convnext_atto", stored=7, options=no_head) == ""
