"""A frozen timm network as a function from images to an NCHW feature map and logits."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, write_json
from sacd.networks import CONFIG, load_weights, read_config
from sacd.tensors import halved

FINAL = "forward_features"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class BackboneConfig:
    """What determines a backbone, apart from its weights.

    `model` and `options` go to `timm.create_model`; images are resized (bicubic) to `input_size`
    pixels and normalised by `mean` and `std`; `layer` is "forward_features" (the penultimate map)
    or a module's name.
    """

    model: str
    options: dict[str, Any]
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: str


def create_network(config: BackboneConfig, pretrained: bool = False) -> nn.Module:
    """The timm model of a configuration; unknown names list what there is."""
    import timm  # seconds to import, and most stages need it not

    if not timm.is_model(config.model):
        near = get_close_matches(config.model.split(".")[0], timm.list_models(), n=20, cutoff=0.6)
        raise unknown_name("timm model", config.model, near or timm.list_models())
    try:
        return timm.create_model(config.model, pretrained=pretrained, **config.options)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise SacdError(
            f"timm model '{config.model}' cannot be made with {config.options}: {error}"
        ) from error
    except OSError as error:
        raise SacdError(
            f"Weights of '{config.model}' could not be had from timm's hub ({error}); "
            f"name a local safetensors file as the backbone's source instead."
        ) from error


def load_network(config: BackboneConfig, path: Path) -> nn.Module:
    """The timm model of a configuration with the weights of a safetensors file, frozen, in fp32."""
    network = create_network(config)
    load_weights(network, path, f"timm's {config.model} with options {config.options}")
    return network


class Backbone(nn.Module):
    """A frozen backbone: images in, feature map (and logits) out.

    Attributes:
        config: what made it.
        has_head: whether logits are to be had.
    """

    def __init__(self, config: BackboneConfig, network: nn.Module):
        super().__init__()
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.has_head = getattr(network, "num_classes", 0) > 0
        self._tapped: Any = None
        if config.layer != FINAL:
            modules = dict(network.named_modules())
            if config.layer not in modules:
                raise unknown_name(
                    f"layer of {config.model}", config.layer, [FINAL, *filter(None, modules)]
                )
            modules[config.layer].register_forward_hook(self._tap)

    @classmethod
    def from_pretrained(cls, folder: Path) -> "Backbone":
        """Load a folder made by `save_backbone`."""
        config = read_config(BackboneConfig, folder)
        return cls(config, load_network(config, folder / WEIGHTS))

    def preprocess(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> the network's normalised input."""
        size = self.config.input_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            torch.tensor(values, device=images.device).view(1, 3, 1, 1)
            for values in (self.config.mean, self.config.std)
        )
        return (images - mean) / std

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images (N, 3, H, W) in [0, 1] -> features (N, C, h, w), logits (N, classes) or None."""
        try:
            final = self.network.forward_features(self.preprocess(images))  # type: ignore[operator]
        except AssertionError as error:  # timm's, where a network is for one size of images alone
            raise SacdError(
                f"{self.config.model}: does not take images of input_size "
                f"{self.config.input_size} px ({error}); change that, or options.img_size."
            ) from error
        logits = self.network.forward_head(final) if self.has_head else None  # type: ignore[operator]
        raw = final if self.config.layer == FINAL else self._tapped
        self._tapped = None
        if not isinstance(raw, Tensor) or raw.ndim not in (3, 4) or len(raw) != len(images):
            found = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            raise SacdError(
                f"layer '{self.config.layer}' of {self.config.model} gives {found} for "
                f"{len(images)} images, not a spatial map of each: name another layer."
            )
        return to_nchw(raw, self.network), logits

    def classify(self, features: Tensor) -> Tensor | None:
        """Logits (N, classes) for features as `forward` gives them; None where no head follows.

        A head follows the last map, unless that was made of tokens.
        """
        of_tokens = hasattr(self.network, "num_prefix_tokens")
        if not self.has_head or self.config.layer != FINAL or of_tokens:
            return None
        channels_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        last = features.permute(0, 2, 3, 1) if channels_last else features
        return self.network.forward_head(last)  # type: ignore[operator]

    def _tap(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # A copy: what follows may change the map in place, as activations and shortcuts do.
        self._tapped = output.clone() if isinstance(output, Tensor) else output


def to_nchw(features: Tensor, network: nn.Module) -> Tensor:
    """Bring a timm network's features to (N, C, h, w): NHWC maps and tokens alike.

    Maps are square, so the two equal axes of an inner layer's output tell its layout; where all
    three are equal, the network's own word for its last map counts.
    """
    if features.ndim == 3:
        # Of a layer before the prefix tokens are added there are none to cut.
        for tokens in (features[:, getattr(network, "num_prefix_tokens", 0) :], features):
            side = round(tokens.shape[1] ** 0.5)
            if side * side == tokens.shape[1]:
                return tokens.transpose(1, 2).unflatten(2, (side, side))
        raise SacdError(f"{features.shape[1]} tokens do not form a square map.")
    if features.ndim != 4:
        raise SacdError(f"A layer's output of shape {tuple(features.shape)} is not a spatial map.")
    first, middle, last = features.shape[1:]
    channels_last = first == middle
    if first == middle == last:
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return features.permute(0, 3, 1, 2) if channels_last else features


def save_backbone(folder: Path, config: BackboneConfig, network: nn.Module) -> None:
    """Write weights (fp16) and configuration; `Backbone.from_pretrained` reads them."""
    weights = halved(network.state_dict(), folder)
    with atomic(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS)
        write_json(temporary / CONFIG, vars(config))
