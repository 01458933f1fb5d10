"""Networks of diffusers: made from options and loaded from folders, strictly."""

from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from diffusers import ModelMixin
from safetensors import SafetensorError

from sacd.errors import SacdError, unknown_name

Network = TypeVar("Network", bound=ModelMixin)


def create_diffusers(kind: type[Network], options: dict[str, Any], **fixed: Any) -> Network:
    """`kind(**fixed, **options)`; options that it doesn't take, or cannot be, are a `SacdError`."""
    known = set(signature(kind.__init__).parameters) - {"self", *fixed}
    for name in options:
        if name not in known:
            raise unknown_name(f"option of {kind.__name__}", name, known)
    try:
        return kind(**fixed, **options)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise SacdError(f"{kind.__name__} cannot be made with {options}: {error}") from error


def load_diffusers(kind: type[Network], folder: Path) -> Network:
    """A frozen network in fp32 from a folder in the diffusers layout; raises `SacdError`.

    diffusers itself leaves weights that the file lacks at random values.
    """
    if not (folder / "config.json").exists():  # diffusers would ask a hub for it
        raise SacdError(f"{folder}: no {kind.__name__} of diffusers here (no config.json).")
    try:
        network, found = kind.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SacdError(f"{folder}: not a {kind.__name__} of diffusers: {error}") from error
    missing, unexpected = found["missing_keys"], found["unexpected_keys"]
    if missing or unexpected:
        raise SacdError(
            f"{folder}: weights don't fit config.json: missing {sorted(missing)[:3]}, unexpected "
            f"{sorted(unexpected)[:3]} ({len(missing)} and {len(unexpected)} keys in all)."
        )
    return network.float().eval().requires_grad_(False)
