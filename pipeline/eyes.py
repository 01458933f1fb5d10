"""What looks at images: the inverted backbone, the judge, the segmenter, the probes' reading."""

import torch
from diffusers import UNet2DModel
from torch import Tensor

from pipeline.artefacts import segmenter_folder
from pipeline.inputs import load_backbone
from pipeline.program import device
from pipeline.settings.sections import Settings
from sacd.backbones.backbone import Backbone
from sacd.concepts.probe import pool_parts
from sacd.features.cache import extract
from sacd.metrics.scoring import Eyes
from sacd.metrics.segmenter import mask_logits
from sacd.networks import load_diffusers

SEGMENTED_AT_ONCE = 64  # images

Seen = tuple[Tensor, Tensor | None]  # features and logits


def load_eyes(backbone: str, settings: Settings) -> Eyes:
    """The inverted backbone, the judge and, in the embedded world, the segmenter."""
    return Eyes(
        load_backbone(backbone),
        load_backbone(settings.compare.judge),
        load_segmenter(settings),
        device(),
    )


def load_segmenter(settings: Settings) -> UNet2DModel | None:
    """The network that finds the object, where there is one."""
    for name in settings.compare.segmenters:
        return load_diffusers(UNet2DModel, segmenter_folder(name)).to(device())
    return None


def see(backbone: Backbone, images: Tensor) -> Seen:
    """uint8 images (N, 3, S, S) -> features and logits, as `cache_features` would keep them."""
    found = extract(backbone, images, device())
    return found["features"], found.get("logits")


@torch.no_grad()
def classify(backbone: Backbone, features: Tensor) -> Tensor | None:
    """Logits (N, classes) for features (N, C, h, w), or None where the head doesn't follow them."""
    logits = backbone.classify(features.to(device()))
    return None if logits is None else logits.cpu()


@torch.no_grad()
def read_parts(features: Tensor, images: Tensor, segmenter: UNet2DModel | None) -> Tensor:
    """What a probe reads: features (N, C, h, w) averaged over parts of images uint8 (N, 3, H, W).

    (N, 2 C + 6), of the object that the segmenter sees and of the rest; without one, all is the
    object. Beside the features go the images' colours, which the judge may have dropped.
    """
    if segmenter is None:
        found = torch.ones(len(images), *images.shape[-2:])
    else:
        blocks = (block.to(device()).float() / 255 for block in images.split(SEGMENTED_AT_ONCE))
        found = torch.cat([mask_logits(segmenter, block).sigmoid().cpu() for block in blocks])
    colors = images.float().cpu() / 255
    return torch.cat([pool_parts(features.float().cpu(), found), pool_parts(colors, found)], 1)
