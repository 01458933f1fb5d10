"""Networks in folders: diffusers' own, and ours of a configuration beside its weights."""

from __future__ import annotations

from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, read_json, write_json
from sacd.provenance import require_intact
from sacd.tensors import halved
from sacd.weight_files import choose_weights

if TYPE_CHECKING:  # diffusers takes seconds to import, and backbones need it not
    from diffusers import ModelMixin

CONFIG = "config.json"
# What the constructors of networks raise at options of any kind that they cannot be made with.
UNMADE = (
    ArithmeticError, AttributeError, LookupError, NotImplementedError, OSError, RuntimeError,
    SafetensorError, TypeError, ValueError,
)  # fmt: skip

Network = TypeVar("Network", bound="ModelMixin")
Config = TypeVar("Config")  # a dataclass


def create_diffusers(kind: type[Network], options: dict[str, Any], **fixed: Any) -> Network:
    """`kind(**fixed, **options)`; options that it doesn't take, or cannot be, are a `SacdError`."""
    known = set(signature(kind.__init__).parameters) - {"self", *fixed}
    for name in options:
        if name not in known:
            raise unknown_name(f"option of {kind.__name__}", name, known)
    try:
        return kind(**fixed, **options)
    except UNMADE as error:
        raise SacdError(f"{kind.__name__} cannot be made with {options}: {error}") from error


def load_diffusers(kind: type[Network], folder: Path) -> Network:
    """A frozen network in fp32 from a folder in the diffusers layout; raises `SacdError`.

    diffusers itself leaves weights that the file lacks at random values. Where there are no
    safetensors, as in some of the older models, it reads torch's file with `weights_only`.
    """
    for path in folder.glob("*.safetensors"):
        require_intact(path)
    if not (folder / CONFIG).exists():  # diffusers would ask a hub for it
        raise SacdError(f"{folder}: no {kind.__name__} of diffusers here (no config.json).")
    weights = choose_weights(path.name for path in folder.iterdir())
    if weights is None:
        raise SacdError(f"{folder}: no {kind.__name__} of diffusers here (no weights).")
    try:
        network, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            variant=weights.variant,
            use_safetensors=weights.safetensors,
        )
    except UNMADE as error:
        raise SacdError(f"{folder}: not a {kind.__name__} of diffusers: {brief(error)}") from error
    _require_all(
        f"{folder}: weights don't fit config.json",
        sorted(found["missing_keys"]),
        sorted(found["unexpected_keys"]),
    )
    file = weights.files[0] if len(weights.files) == 1 else ""
    require_finite(network.state_dict(), folder / file)
    return network.float().eval().requires_grad_(False)


def save_diffusers(network: ModelMixin, folder: Path) -> None:
    """Write a network in the diffusers layout with fp16 weights, to which its own are rounded.

    Raises `SacdError` where fp16 cannot hold a weight.
    """
    halved(network.state_dict(), folder)
    network.half().save_pretrained(folder)
    network.float()


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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises `SacdError` where they can't be had or be used."""
    try:
        require_intact(path)
        weights = load_file(path)
    except FileNotFoundError as error:
        raise SacdError(f"{path}: no such weights file.") from error
    except (OSError, SafetensorError) as error:
        raise SacdError(f"{path}: not a readable safetensors file ({error}).") from error
    require_finite(weights, path)
    return weights


def require_finite(weights: dict[str, Tensor], path: Path) -> None:
    """Raise `SacdError` by a file's name where one of its weights is not a finite number."""
    for name, values in weights.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise SacdError(f"{path}: '{name}' holds weights that are not finite numbers.")


def fits(network: nn.Module, weights: dict[str, Tensor]) -> bool:
    """Whether weights are those of a network, by names and shapes."""
    ours = {name: values.shape for name, values in network.state_dict().items()}
    return ours == {name: values.shape for name, values in weights.items()}


def load_weights(network: nn.Module, path: Path, kind: str) -> None:
    """Give `network` the weights of a safetensors file (any float type), frozen, in fp32.

    Raises `SacdError` where they are not those of a `kind`, as in "an adapter for this prior".
    """
    weights = read_weights(path)
    refused = f"{path}: not the weights of {kind}"
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise SacdError(f"{refused}: {brief(error)}") from error
    _require_all(refused, missing, unexpected)
    network.float().eval().requires_grad_(False)


def brief(error: Exception) -> str:
    """What an error says, on one line and cut: torch lists every weight."""
    return " ".join(str(error).split())[:300]


def _require_all(refused: str, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise SacdError(
            f"{refused}: missing {missing[:3]}, unexpected {unexpected[:3]} "
            f"({len(missing)} and {len(unexpected)} keys in all)."
        )
