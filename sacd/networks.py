"""Networks in folders: diffusers' own, and ours of a configuration beside its weights."""

from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from diffusers import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, read_json, write_json
from sacd.tensors import halved

CONFIG = "config.json"

Network = TypeVar("Network", bound=ModelMixin)
Config = TypeVar("Config")  # a dataclass


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

    diffusers itself leaves weights that the file lacks at random values. Where there are no
    safetensors, as in some of the older models, it reads torch's file with `weights_only`.
    """
    if not (folder / CONFIG).exists():  # diffusers would ask a hub for it
        raise SacdError(f"{folder}: no {kind.__name__} of diffusers here (no config.json).")
    try:
        network, found = kind.from_pretrained(
            folder,
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


def save_network(network: nn.Module, config: Any, folder: Path, name: str) -> None:
    """Write `folder`: config.json of the dataclass `config`, and the weights as the file `name`.

    Weights are fp16, buffers as they are. Raises `SacdError` where fp16 cannot hold a weight.
    """
    tensors = halved(dict(network.named_parameters()), folder)
    tensors |= {key: b.contiguous() for key, b in network.named_buffers()}
    with atomic(folder) as temporary:
        temporary.mkdir()
        save_file(tensors, temporary / name)
        write_json(temporary / CONFIG, asdict(config))


def read_config(kind: type[Config], folder: Path) -> Config:
    """The configuration that `save_network` wrote; raises `SacdError`."""
    raw = read_json(folder / CONFIG)
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    except (AttributeError, TypeError) as error:
        raise SacdError(f"{folder / CONFIG}: not a {kind.__name__} ({error}).") from error


def load_weights(network: nn.Module, path: Path, kind: str) -> None:
    """Give `network` the weights that `save_network` wrote, frozen, in fp32.

    Raises `SacdError` where they are not those of a `kind`, as in "an adapter for this prior".
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]  # torch lists every weight
        raise SacdError(f"{path}: not the weights of {kind}: {reason}") from error
    network.float().eval().requires_grad_(False)
