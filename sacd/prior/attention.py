"""The prior with its self-attention smoothed, which guidance contrasts it with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor


@contextmanager
def smoothed_attention(unet: UNet2DConditionModel) -> Iterator[Callable[..., Any]]:
    """Let self-attention ask at every location what the locations ask on average.

    It is the limit of blurring the queries ever more (Hong 2024, section 4.2), in which the energy
    that attention descends is flattest. Gives what to call: the U-Net's forward as it is written,
    for a compiled U-Net would pass over the hooks.
    """
    hooks = [
        module.to_q.register_forward_hook(lambda _, __, queries: _averaged(queries))
        for module in unet.modules()
        if isinstance(module, Attention) and not module.is_cross_attention
    ]
    try:
        yield unet.forward
    finally:
        for hook in hooks:
            hook.remove()


def _averaged(queries: Tensor) -> Tensor:
    """Queries (N, locations, C), each the mean over locations."""
    return queries.mean(1, keepdim=True).expand_as(queries)
