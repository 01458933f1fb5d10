"""A frozen timm network as a function from images to an NCHW feature map and logits."""

from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from sacd.backbones.layout import maps_of, patch_grid, restored
from sacd.backbones.order import ALIGNED, alignment, changed_squares, scattered
from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, write_json
from sacd.networks import CONFIG, fits, read_config, read_weights
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
    """The timm model of a configuration; unknown names and options list what is near."""
    import timm  # seconds to import, and most stages need it not

    if not timm.is_model(config.model):
        architecture = config.model.split(".")[0]
        near = get_close_matches(architecture, timm.list_models(), n=20, cutoff=0.6)
        if not near:
            raise SacdError(
                f"unknown timm model '{config.model}', and none is called alike: "
                f"timm.list_models() has the names."
            )
        raise unknown_name("timm model", config.model, near)
    # What is no model's own: where weights come from, and what makes it another thing.
    reserved = {*signature(timm.create_model).parameters, "features_only", "in_chans"} - {"kwargs"}
    if taken := sorted(reserved & config.options.keys()):
        raise SacdError(
            f"timm model '{config.model}': options.{taken[0]} cannot be chosen: a backbone takes "
            f"RGB images, and its weights are those of its source."
        )
    try:
        return timm.create_model(config.model, pretrained=pretrained, **config.options)
    except OSError as error:
        raise SacdError(
            f"Weights of '{config.model}' could not be had from timm's hub ({error}); "
            f"name a local safetensors file as the backbone's source instead."
        ) from error
    except Exception as error:  # whatever a constructor says to options that it was not made for
        raise SacdError(
            f"timm model '{config.model}' cannot be made with {config.options}: {_reason(error)}"
        ) from error


def load_network(config: BackboneConfig, path: Path) -> nn.Module:
    """The timm model of a configuration with the weights of a safetensors file, frozen, in fp32.

    A file that was made for other options is taken as timm takes it: position embeddings are
    resampled to the image size of `config.options`, weights of older names converted. A head for
    another number of classes is left out: the network has none then. Raises `SacdError` where
    weights are missing or left over.
    """
    network = create_network(config)
    weights = read_weights(path)
    if fits(network, weights):
        network.load_state_dict(weights)
    else:
        network = _converted(network, weights, config, path)
    return network.float().eval().requires_grad_(False)


def _converted(
    network: Any, weights: dict[str, Tensor], config: BackboneConfig, path: Path
) -> nn.Module:
    """The network made again by timm, from weights that are not its own by names and shapes."""
    import timm

    heads = network.pretrained_cfg.get("classifier") or ()
    names = [f"{name}.weight" for name in ([heads] if isinstance(heads, str) else heads)]
    classes = next((len(weights[name]) for name in names if name in weights), 0)
    try:
        # With the classes of the file: timm asks for every weight then.
        loaded: Any = timm.create_model(
            config.model,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": dict(weights), "num_classes": classes},
            **config.options | {"num_classes": classes},
        )
    except Exception as error:  # whatever a model's conversion says to weights of another
        raise SacdError(
            f"{path}: not the weights of timm's {config.model} with options {config.options}: "
            f"{_reason(error)}"
        ) from error
    if classes not in (0, network.num_classes):
        loaded.reset_classifier(0)
    return loaded


def _reason(error: Exception) -> str:
    """An error in one line; torch lists every weight."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Backbone(nn.Module):
    """A frozen backbone: images in, feature map (and logits) out.

    `verify` runs the network once, to see that it takes images of `input_size` and that the layer
    gives a map, in the order of the image. Raises `SacdError` where it doesn't.

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
            _layer_of(network, config).register_forward_hook(self._tap)
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

    def _run(self, images: Tensor) -> tuple[Any, Tensor | None, Any]:
        """What the head is given, logits, and what the layer gives, for images in [0, 1]."""
        network: Any = self.network
        try:
            final = network.forward_features(self.preprocess(images))
            logits = network.forward_head(final) if self.has_head else None
        except Exception as error:  # whatever a network says to images that it was not made for
            if self._layout:  # it has taken such images before
                raise
            raise self._wrong_size(error) from error
        raw = final if self.config.layer == FINAL else self._tapped
        self._tapped = None
        return final, logits, raw

    def _maps(self, raw: Any, count: int) -> dict[str, Tensor]:
        """What the layer's output may be as maps of `count` images; raises `SacdError`."""
        if isinstance(raw, Tensor) and len(raw) == count and (maps := maps_of(raw, self.network)):
            return maps
        if raw is None:
            raise self._refused("is not run")
        found = f"a tensor {tuple(raw.shape)}" if isinstance(raw, Tensor) else type(raw).__name__
        raise self._refused(f"gives {found} for {count} images, not a map of 2 x 2 or more of each")

    @torch.no_grad()
    def _verify(self) -> None:
        """Choose the layout in which the map is in place, and see whether a head follows it."""
        try:
            squares = changed_squares(self.config.input_size)
        except RuntimeError as error:  # no memory is as large
            raise self._wrong_size(error) from error
        final, _, raw = self._run(squares.to(next(self.network.parameters()).device))
        maps = self._maps(raw, len(squares))
        self._layout = max(maps, key=lambda layout: alignment(maps[layout]))
        if alignment(maps[self._layout]) < ALIGNED:
            self._layout = self._likeliest(maps, final)
        if self.has_head and self.config.layer == FINAL:
            last = restored(maps[self._layout], self._layout)
            self._head_follows = last is not None and torch.equal(last, final)

    def _likeliest(self, maps: dict[str, Tensor], final: Any) -> str:
        """The layout of maps that show nothing of their order; raises `SacdError`.

        Layers that mix all locations change everywhere alike. They are taken as they come where
        they are as large as what timm says to be a map: the last one, or the grid of patches.
        """
        last = maps_of(final, self.network) if isinstance(final, Tensor) else {}
        known = [patch_grid(self.network), *(tuple(one.shape[-2:]) for one in last.values())]
        for layout, features in maps.items():
            if tuple(features.shape[-2:]) in known and not scattered(features):
                return layout
        height, width = next(iter(maps.values())).shape[-2:]
        raise self._refused(
            f"gives {height} x {width} values that do not change where the image does: it is no "
            f"map, or one in another order"
        )

    def _wrong_size(self, error: Exception) -> SacdError:
        return SacdError(
            f"{self.config.model}: does not take images of input_size {self.config.input_size} px "
            f"({_reason(error)}); change that, or options.img_size."
        )

    def _refused(self, reason: str) -> SacdError:
        return SacdError(
            f"layer '{self.config.layer}' of {self.config.model} {reason}: name another layer."
        )

    def _tap(self, module: nn.Module, inputs: Any, output: Any) -> None:
        # A copy: what follows may change the map in place, as activations and shortcuts do.
        self._tapped = output.clone() if isinstance(output, Tensor) else output


def _layer_of(network: nn.Module, config: BackboneConfig) -> nn.Module:
    """The module that a configuration names; raises `SacdError` with those that may be meant."""
    modules = {name: module for name, module in network.named_modules() if name}
    if config.layer in modules:
        return modules[config.layer]
    near = get_close_matches(config.layer, modules, n=20, cutoff=0.6)
    outer = [name for name in modules if name.count(".") <= 1]
    raise unknown_name(f"layer of {config.model}", config.layer, {FINAL, *near, *outer})


def save_backbone(folder: Path, config: BackboneConfig, network: nn.Module) -> None:
    """Write weights (fp16) and configuration; `Backbone.from_pretrained` reads them."""
    weights = halved(network.state_dict(), folder)
    with atomic(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS)
        write_json(temporary / CONFIG, vars(config))
