"""The segmenter: a small network that draws the mask of a scene's object.

Trained on true masks of the embedded world, it says where the object stands in a reconstruction,
without asking any of the networks under study.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor

from sacd.backbones.training import FLIPS, augment
from sacd.numerics import conv_format
from sacd.optimization import Progress, Recipe, Step, Trained, train


def create_segmenter(width: int, image_size: int) -> UNet2DModel:
    """An attention-free U-Net from RGB to one mask logit; `width` is its first level's."""
    return UNet2DModel(
        sample_size=image_size,
        in_channels=3,
        out_channels=1,
        block_out_channels=[width, 2 * width, 4 * width, 4 * width],
        down_block_types=["DownBlock2D"] * 4,
        up_block_types=["UpBlock2D"] * 4,
        layers_per_block=1,
        add_attention=False,
        norm_num_groups=width,
    )


def mask_logits(segmenter: UNet2DModel, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> logits (N, H, W) of "this pixel shows the object"."""
    return segmenter(2 * images - 1, 0).sample[:, 0]


def train_segmenter(
    width: int,
    images: Tensor,
    masks: Tensor,
    recipe: Recipe,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[UNet2DModel, Trained]:
    """Train on images uint8 (N, 3, H, W) and masks bool (N, H, W) by binary cross-entropy."""
    torch.manual_seed(recipe.seed)
    segmenter = create_segmenter(width, images.shape[-1]).to(
        device, memory_format=conv_format(device)
    )

    def read(generator: torch.Generator) -> tuple[Tensor]:
        rows = torch.randint(len(images), (recipe.batch,), generator=generator)
        # Masks ride along as a fourth channel, so that flips move both.
        joined = torch.cat([images[rows] / 255, masks[rows, None].float()], dim=1)
        return (augment(joined, FLIPS, generator),)

    def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
        (joined,) = step.batch
        logits = mask_logits(segmenter, joined[:, :3]).float()
        return F.binary_cross_entropy_with_logits(logits, joined[:, 3]), {}

    trained = train(dict(segmenter.named_parameters()), read, loss, recipe, work, progress)
    segmenter.load_state_dict(trained.weights)
    return segmenter.eval().requires_grad_(False), trained


def mask_iou(found: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boolean masks (N, H, W); 1 where both are empty."""
    both = (found & truth).flatten(1).sum(1).float()
    either = (found | truth).flatten(1).sum(1).float()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(either))
