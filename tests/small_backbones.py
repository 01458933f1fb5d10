"""Small backbones of four families, with random weights."""

from typing import Any

import torch

from sacd.backbones.backbone import Backbone, BackboneConfig, create_network

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


def config_of(model: str, layer: str = "forward_features", classes: int = 3) -> BackboneConfig:
    options = {"num_classes": classes, **FAMILIES.get(model.split(".")[0], {})}
    return BackboneConfig(model, options, 32, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1), layer)


def backbone_of(model: str, layer: str = "forward_features", classes: int = 3) -> Backbone:
    torch.manual_seed(0)
    config = config_of(model, layer, classes)
    return Backbone(config, create_network(config))
