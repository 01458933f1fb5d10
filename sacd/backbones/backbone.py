"""A frozen timm network as a function from images to an NCHW feature map and logits."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from sacd.backbones.layout import changed_squares, displacement, in_order, maps_of, restored
from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, write_json
from sacd.networks import CONFIG, fits, load_weights, read_config, read_weights
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
    except OSError as error:
        raise SacdError(
            f"Weights of '{config.model}' could not be had from timm's hub ({error}); "
            f"name a local safetensors file as the backbone's source instead."
        ) from error
    except Exception as error:  # whatever a constructor says to options that it was not made for
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SacdError(
            f"timm model '{config.model}' cannot be made with {config.options}: {reason}"
        ) from error


def load_network(config: BackboneConfig, path: Path) -> nn.Module:
    """The timm model of a configuration with the weights of a safetensors file, frozen, in fp32.

    A file that was made for other options is taken as timm takes it: position embeddings are
    resampled to the image size of `config.options`, weights of older names converted. A head for
    another number of classes is left out: the network has none then.
    """
    import timm

    network = create_network(config)
    weights = read_weights(path)
    if fits(network, weights):
        network.load_state_dict(weights)
        return network.float().eval().requires_grad_(False)
    heads = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    names = [f"{name}.weight" for name in ([heads] if isinstance(heads, str) else heads)]
    classes = [len(weights[name]) for name in names if name in weights]
    has_head = bool(classes) and classes[0] == config.options.get("num_classes", classes[0])
    options = config.options | ({} if has_head else {"num_classes": 0})
    overlay = {"file": str(path), "num_classes": classes[0] if classes else 0}
    try:
        network = timm.create_model(
            config.model, pretrained=True, pretrained_cfg_overlay=overlay, **options
        )
    except Exception:  # whatever a model's conversion says to weights of another
        load_weights(network, path, f"timm's {config.model} with options {config.options}")
        raise
    return network.float().eval().requires_grad_(False)


class Backbone(nn.Module):
    """A frozen backbone: images in, feature map (and logits) out.

    `verify` runs the network once on the CPU to see that the layer gives a map, in the order of the
    image. Raises `SacdError` where it doesn't, or where images of `input_size` don't fit.

    Attributes:
        config: what made it.
        has_head: whether logits are to be had.
    """

    def __init__(self, config: BackboneConfig, network: nn.Module, verify: bool = True):
        super().__init__()
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.has_head = getattr(network, "num_classes", 0) > 0
        self._tapped: Any = None
        self._layout: str | None = None  # one of `maps_of`
        self._head_follows = False
        if config.layer != FINAL:
            modules = dict(network.named_modules())
            if config.layer not in modules:
                raise unknown_name(
                    f"layer of {config.model}", config.layer, [FINAL, *filter(None, modules)]
                )
            modules[config.layer].register_forward_hook(self._tap)
        if verify:
            self._verify()

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
        _, logits, raw = self._run(images)
        maps = self._maps(raw, len(images))
        return maps[self._layout or next(iter(maps))], logits

    def classify(self, features: Tensor) -> Tensor | None:
        """Logits (N, classes) for features as `forward` gives them; None where no head follows.

        A head follows the last map, unless it asks for more than that, as for a class token.
        """
        if not self._head_follows or self._layout is None:
            return None
        return self.network.forward_head(restored(features, self._layout))  # type: ignore[operator]

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor | None, Any]:
        """What the head is given, logits, and what the layer gives, for images in [0, 1]."""
        network: Any = self.network
        try:
            final = network.forward_features(self.preprocess(images))
            logits = network.forward_head(final) if self.has_head else None
        except torch.OutOfMemoryError:
            raise
        # timm's and torch's, where a network is for one size of images alone.
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SacdError(
                f"{self.config.model}: does not take images of input_size "
                f"{self.config.input_size} px ({reason}); change that, or options.img_size."
            ) from error
        raw = final if self.config.layer == FINAL else self._tapped
        self._tapped = None
        return final, logits, raw

    def _maps(self, raw: Any, count: int) -> dict[str, Tensor]:
        """What the layer's output may be as maps of `count` images; raises `SacdError`."""
        spatial = isinstance(raw, Tensor) and len(raw) == count
        if spatial and (found := maps_of(raw, self.network)):
            return found
        shape = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
        raise SacdError(
            f"layer '{self.config.layer}' of {self.config.model} gives {shape} for {count} images, "
            f"not a spatial map of each (square, and 2 x 2 or more): name another layer."
        )

    @torch.no_grad()
    def _verify(self) -> None:
        """Choose the layout by which the map is in place, and see whether a head follows it."""
        final, _, raw = self._run(changed_squares(self.config.input_size))
        maps = self._maps(raw, len(final))
        self._layout = min(maps, key=lambda layout: displacement(maps[layout]))
        features = maps[self._layout]
        if not in_order(features):
            raise SacdError(
                f"layer '{self.config.layer}' of {self.config.model}: its {features.shape[-2]} x "
                f"{features.shape[-1]} map changes elsewhere than the image does, so it is kept in "
                f"another order: name another layer."
            )
        if self.has_head and self.config.layer == FINAL:
            last = restored(features, self._layout)
            self._head_follows = last is not None and torch.equal(last, final)

    def _tap(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # A copy: what follows may change the map in place, as activations and shortcuts do.
        self._tapped = output.clone() if isinstance(output, Tensor) else output


def save_backbone(folder: Path, config: BackboneConfig, network: nn.Module) -> None:
    """Write weights (fp16) and configuration; `Backbone.from_pretrained` reads them."""
    weights = halved(network.state_dict(), folder)
    with atomic(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS)
        write_json(temporary / CONFIG, vars(config))
