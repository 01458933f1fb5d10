"""Adversarial images, by the Adversarial Robustness Toolbox."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sacd.backbones.backbone import Backbone
from sacd.errors import SacdError

PGD_STEP = 2.5  # as a share of budget / steps (Madry et al. 2018)
APGD_STEP = 2.0  # the first one, as a share of the budget (Croce & Hein 2020)


class _Logits(nn.Module):
    """A backbone as the plain classifier that the toolbox wants."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        logits = self.backbone(images)[1]
        assert logits is not None  # looked at before
        return logits


def attack(
    backbone: Backbone,
    images: Tensor,
    classes: Tensor,
    kind: str,
    targeted: bool,
    budget: float,
    steps: int,
    seed: int,
) -> Tensor:
    """uint8 images (N, 3, H, W), each value changed by at most `budget` (of 255).

    `kind` "pgd": projected gradient descent from the image itself (Madry et al. 2018). "auto": the
    ensemble of the two parameter-free attacks of AutoAttack that follow gradients, APGD on
    cross-entropy and on the difference of logits ratio (Croce & Hein 2020), the second on the
    images that withstood the first; an image that withstands both comes back as it was. They lead
    away from `classes` (N,), or `targeted`, which only "pgd" can be, towards them. What is returned
    is rounded to 8 bits, as images are kept. Raises `SacdError` for a backbone without a head, and
    for "auto" where it knows fewer than three classes.
    """
    if not backbone.has_head:
        raise SacdError("An attack needs class logits, and this backbone has no head.")
    if targeted and kind != "pgd":
        raise SacdError(f"Attack '{kind}' only leads away from a class: targeted is for 'pgd'.")
    device = next(backbone.parameters()).device
    classifier = _classifier(backbone, images, device)
    if kind == "auto" and classifier.nb_classes < 3:  # the ratio is of the first three
        raise SacdError(
            f"Attack 'auto' needs three classes, and there are {classifier.nb_classes}."
        )
    method = _attack(classifier, kind, targeted, budget, steps)
    with _numpy_seed(seed):
        found = method.generate((images.float() / 255).numpy(), classes.numpy())
    return torch.from_numpy(found * 255).round().clamp(0, 255).to(images.dtype)


def _classifier(backbone: Backbone, images: Tensor, device: torch.device) -> Any:
    from art.estimators.classification import PyTorchClassifier  # seconds to import

    with torch.no_grad():
        classes = backbone(images[:1].to(device).float() / 255)[1].shape[1]
    return PyTorchClassifier(
        _Logits(backbone),
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )


def _attack(classifier: Any, kind: str, targeted: bool, budget: float, steps: int) -> Any:
    from art.attacks.evasion import (
        AutoAttack,
        AutoProjectedGradientDescent,
        ProjectedGradientDescentPyTorch,
    )

    reach = budget / 255
    if kind == "pgd":
        return ProjectedGradientDescentPyTorch(
            classifier, max_iter=steps, targeted=targeted, verbose=False, eps=reach,
            eps_step=PGD_STEP * reach / steps,
        )  # fmt: skip
    limits = {"eps": reach, "eps_step": APGD_STEP * reach}
    parts = [
        AutoProjectedGradientDescent(
            classifier, max_iter=steps, nb_random_init=1, loss_type=loss, verbose=False, **limits
        )
        for loss in ("cross_entropy", "difference_logits_ratio")
    ]  # fmt: skip
    return AutoAttack(classifier, attacks=parts, **limits)


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """The toolbox draws its starts from numpy's global generator."""
    state = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)
