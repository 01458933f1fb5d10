"""How a device computes networks: precision, attention, layout."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def numerics(device: torch.device, precision: str) -> Iterator[None]:
    """Run a network in a precision, on the CPU with attention by plain matrix products.

    `precision` is "fp32" or "bf16": autocast, where the hardware has it. PyTorch's attention kernel
    for the CPU takes a third of a training step for maps as small as ours, most of it in its
    backward pass.
    """
    with ExitStack() as stack:
        if precision == "bf16" and multiplies_bf16(device):
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware does; emulated on a CPU, bf16 takes five times as long as fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # which need not be a thread's own
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def conv_format(device: torch.device) -> torch.memory_format:
    """The faster layout for convolutions between group norms: these are slow on the CPU in NHWC."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
