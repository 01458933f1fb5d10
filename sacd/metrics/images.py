"""Per-image scores on pixels. Images are (N, 3, H, W) in [0, 1]; results are (N,)."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_ALEXNET = "alexnet-owt-7be5be79.pth"


def image_scores(ours: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """`psnr_db`, `ssim` (Wang et al. 2004) and, where its weights are here, `lpips`."""
    from torchmetrics.functional.image import (  # seconds to import, and figures need it not
        structural_similarity_index_measure,
    )

    ssim = structural_similarity_index_measure(ours, truth, reduction="none", data_range=1.0)
    assert isinstance(ssim, Tensor)  # it is a pair only with return_full_image
    scores = {"psnr_db": psnr_db(ours, truth), "ssim": ssim}
    if lpips_available():
        scores["lpips"] = _lpips(ours, truth)
    return scores


def psnr_db(ours: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, at most 100."""
    return -10 * ((ours - truth) ** 2).mean((1, 2, 3)).clamp(min=1e-10).log10()


def lpips_available() -> bool:
    """Whether torchvision's AlexNet weights, which LPIPS stands on, are in torch's hub cache."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET).exists()


def _lpips(ours: Tensor, truth: Tensor) -> Tensor:
    with torch.no_grad():
        return _lpips_network(ours.device)(2 * ours - 1, 2 * truth - 1).flatten()


@cache
def _lpips_network(device: torch.device) -> torch.nn.Module:
    import lpips

    return lpips.LPIPS(net="alex", verbose=False).to(device)


def pixel_spread(samples: Tensor) -> Tensor:
    """Per-pixel deviation among K samples: (N, K, 3, H, W) in [0, 1] -> (N, H, W).

    Root of the variance averaged over colour channels: small where the features fix the image,
    large where the prior fills it in.
    """
    return samples.var(1, correction=0).mean(1).sqrt()


def image_spread(samples: Tensor) -> Tensor:
    """Mean root-mean-square difference over pairs of different samples, (N,)."""
    count = samples.shape[1]
    flat = samples.flatten(2)
    pairs = [
        (flat[:, a] - flat[:, b]).square().mean(1).sqrt()
        for a in range(count)
        for b in range(a + 1, count)
    ]
    return torch.stack(pairs).mean(0)
