"""params.yaml as typed models. There are no defaults: DVC can only track what is written down."""

from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sacd.errors import SacdError, unknown_name
from stages.artefacts import REFERENCE_SCORES, REFERENCES, adapter_folder, decoder_folder
from stages.mistakes import explain, short

PARAMS = Path("params.yaml")

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class Section(BaseModel):
    """A section of params.yaml: unknown keys are errors, values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PerClass(Section):
    train: Positive
    val: Positive
    test: Annotated[int, Field(ge=2)]  # a floor is another image of the class


class Images(Section):
    """Which images: `source` is "shapes" or a folder, .tar or .zip in ImageFolder layout."""

    source: str
    size: Annotated[int, Field(ge=16)]
    classes: Literal["all"] | Positive | Annotated[list[str], Field(min_length=1)]
    per_class: PerClass
    max_skipped: Share


class Training(Section):
    """See `sacd.optimization.Recipe`."""

    steps: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Annotated[int, Field(ge=0)]
    schedule: Literal["cosine", "constant"]
    weight_decay: Annotated[float, Field(ge=0)]
    ema: Annotated[float, Field(ge=0, lt=1)]
    clip: Annotated[float, Field(gt=0)]
    precision: Literal["bf16", "fp32"]


class AugmentationSettings(Section):
    """See `sacd.backbones.training.Augmentation`."""

    color_jitter: Share
    blur: Annotated[float, Field(ge=0)]
    noise: Share


class BackboneTraining(Training):
    """`dense` adds a loss at every location, which needs the true masks of `shapes`."""

    augmentation: AugmentationSettings
    dense: bool


class BackboneSettings(Section):
    """`source` is "train", "timm" (its hub), a safetensors file or a folder made by this rule.

    `refinement` trains the network further, say under augmentations that it could not begin with.
    """

    source: str
    model: str
    options: dict[str, Any]
    input_size: Positive
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    layer: str
    training: BackboneTraining | None
    refinement: BackboneTraining | None


class Criticised(Section):
    """Training against a feature loss; its `critic` must not be a backbone under study."""

    critic: BackboneSettings
    critic_layers: Annotated[list[str], Field(min_length=1)]
    feature_weight: Annotated[float, Field(ge=0)]
    training: Training


class AutoencoderSettings(Criticised):
    """`options` go to diffusers' AutoencoderKL; `refinement` trains the decoder further."""

    options: dict[str, Any]
    kl_weight: Annotated[float, Field(ge=0)]
    refinement: Criticised | None


class UnetSettings(Section):
    """`options` go to diffusers' UNet2DConditionModel, `noise_shift` to `create_scheduler`."""

    options: dict[str, Any]
    noise_shift: Annotated[float, Field(gt=0)]
    training: Training


class PriorSettings(Section):
    """`source` is "train" or a folder in the diffusers layout."""

    source: str
    autoencoder: AutoencoderSettings | None
    unet: UnetSettings | None


class ProbeSettings(Section):
    """A network trained on true factors: `kind` finder draws the object's mask."""

    source: str
    kind: Literal["finder"]
    width: Positive
    training: Training | None


class AdapterSettings(Section):
    """See `sacd.adapters`: `hidden` is the feature encoder's width, `drop` how often training
    replaces the features by the null one."""

    type: Literal["controlnet", "lite"]
    conditioning: Literal["spatial", "pooled"]
    hidden: Positive
    drop: Share
    training: Training


class DecoderSettings(Section):
    """A feed-forward decoder, see `sacd.baselines.decoder`: `widths` from image to latent grid."""

    widths: Annotated[list[Positive], Field(min_length=1)]
    feature_weight: Annotated[float, Field(ge=0)]
    training: Training


class RefinementSettings(Section):
    """See `sacd.sampling.refinement.Refinement`."""

    steps: Positive
    rate: Annotated[float, Field(gt=0)]


class AdapterMethod(Section):
    """Ours: the prior, steered by an adapter. `features` are true ones, or null (what the prior
    does by itself).

    For `guidance` and `guided_below` see `sacd.sampling.sampler.sample_latents`; of every `best_of`
    samples the one with the nearest features is kept.
    """

    type: Literal["adapter"]
    adapter: Name
    features: Literal["true", "null"]
    guidance: Annotated[float, Field(ge=0)]
    guided_below: Share
    steps: Positive
    refinement: RefinementSettings | None
    best_of: Positive
    samples: Positive


class NearestMethod(Section):
    """The `samples` training images with the nearest features, see `sacd.baselines.nearest`."""

    type: Literal["nearest"]
    samples: Positive


class PixelMethod(Section):
    """Optimisation of pixels, see `sacd.baselines.pixels`; the best of `restarts` is kept."""

    type: Literal["pixels"]
    steps: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    variation: Annotated[float, Field(ge=0)]
    norm: Annotated[float, Field(ge=0)]
    restarts: Positive
    samples: Positive


class DecoderMethod(Section):
    """A feed-forward decoder's one image."""

    type: Literal["decoder"]
    decoder: Name


class GuidanceMethod(Section):
    """Training-free guidance of the prior, see `sacd.baselines.guidance`."""

    type: Literal["guidance"]
    steps: Positive
    strength: Annotated[float, Field(gt=0)]
    recurrences: Positive
    samples: Positive


MethodSettings = Annotated[
    AdapterMethod | NearestMethod | PixelMethod | DecoderMethod | GuidanceMethod,
    Field(discriminator="type"),
]


class SweepSettings(Section):
    """A search for a method's parameters on `images` validation images.

    `over` gives values by key, as in {guidance: [1.0, 3.0], refinement.steps: [5, 10]}; all their
    combinations are tried.
    """

    method: Name
    images: Positive
    over: Annotated[
        dict[str, Annotated[list[float | int], Field(min_length=1)]], Field(min_length=1)
    ]

    def combinations(self) -> list[dict[str, float | int]]:
        """A dictionary of values by key for each."""
        return [
            dict(zip(self.over, values, strict=True)) for values in product(*self.over.values())
        ]


class Disturbance(Section):
    """A test of robustness: `methods` reconstruct `images` test images, one sample each.

    Every one of `levels` is tried, and none at all.
    """

    images: Positive
    methods: Annotated[list[Name], Field(min_length=1)]


class Corruption(Disturbance):
    """Corrupted images, see `sacd.robustness.corruptions` for what a level is."""

    type: Literal["corruption"]
    kind: Literal["noise", "blur", "jpeg", "contrast", "brightness", "pixelate"]
    levels: Annotated[list[float], Field(min_length=1)]


class Attack(Disturbance):
    """Adversarial images, see `sacd.robustness.attacks`; a level is a budget, of 255."""

    type: Literal["attack"]
    kind: Literal["pgd", "auto"]
    targeted: bool
    steps: Positive
    levels: Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=1)]


class FeatureDisturbance(Disturbance):
    """Disturbed features of undisturbed images, see `sacd.robustness.features`.

    A level is a deviation for noise, a share for dropout, a number of bits for quantisation.
    """

    type: Literal["features"]
    kind: Literal["noise", "dropout", "quantisation"]
    levels: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]


class Unseen(Disturbance):
    """Images from outside the training set's world.

    A level is a factor of the embedded world that takes an unseen value (shape, fill, background),
    or else a folder or archive in ImageFolder layout.
    """

    type: Literal["unseen"]
    levels: Annotated[list[str], Field(min_length=1)]


DisturbanceSettings = Annotated[
    Corruption | Attack | FeatureDisturbance | Unseen, Field(discriminator="type")
]


class Compare(Section):
    """What is run: names defined in the sections of the same name; one judge for all.

    `networks` are all whose features are cached: the inverted `backbones` and the `judge`.
    `ranking` names methods in the order in which they are claimed to do well, and `gap_closed` is
    the share of the way from floor to ceiling that the main method should go (table checks.csv).
    """

    networks: list[Name]
    backbones: list[Name]
    judge: Name
    probes: list[Name]
    adapters: list[Name]
    decoders: list[Name]
    methods: list[Name]
    ranking: list[Name]
    sweeps: list[Name]
    disturbances: list[Name]
    layers: list[Name]
    main_method: Name
    gap_closed: Share


class Settings(Section):
    """All of params.yaml; `root` is the way to the repository's root, for dvc.yaml.

    `layers` names backbones that are layers of one network, from shallow to deep.
    """

    root: str
    seed: Annotated[int, Field(ge=0)]
    images: Images
    backbones: dict[Name, BackboneSettings]
    prior: PriorSettings
    probes: dict[Name, ProbeSettings]
    adapters: dict[Name, AdapterSettings]
    decoders: dict[Name, DecoderSettings]
    methods: dict[Name, MethodSettings]
    sweeps: dict[Name, SweepSettings]
    disturbances: dict[Name, DisturbanceSettings]
    layers: dict[Name, Annotated[list[Name], Field(min_length=1)]]
    compare: Compare

    @model_validator(mode="after")
    def fits_together(self) -> "Settings":
        """What no section can check by itself."""
        self._require_names()
        self._require_comparison()
        self._require_images()
        self._require_networks()
        self._require_recipes()
        self._require_sweeps()
        return self

    def _require_names(self) -> None:
        """Every name points to something defined, and none stands twice."""
        compare = self.compare
        uses: list[tuple[str, str, list[str], Collection[str]]] = [
            ("compare.backbones", "backbone", compare.backbones, self.backbones),
            ("compare.judge", "backbone", [compare.judge], self.backbones),
            ("compare.networks", "backbone", compare.networks, self.backbones),
            ("compare.probes", "probe", compare.probes, self.probes),
            ("compare.adapters", "adapter", compare.adapters, self.adapters),
            ("compare.decoders", "decoder", compare.decoders, self.decoders),
            ("compare.methods", "method", compare.methods, self.methods),
            ("compare.sweeps", "sweep", compare.sweeps, self.sweeps),
            ("compare.disturbances", "disturbance", compare.disturbances, self.disturbances),
            ("compare.layers", "comparison of layers", compare.layers, self.layers),
        ]
        if compare.methods:
            uses.append(("compare.main_method", "method", [compare.main_method], compare.methods))
            uses.append(("compare.ranking", "method", compare.ranking, compare.methods))
        for name in sorted({*compare.methods} & {*self.methods}):
            method, where = self.methods[name], f"methods.{name}"
            if isinstance(method, AdapterMethod):
                uses.append((f"{where}.adapter", "adapter", [method.adapter], compare.adapters))
            if isinstance(method, DecoderMethod):
                uses.append((f"{where}.decoder", "decoder", [method.decoder], compare.decoders))
        for name in sorted({*compare.disturbances} & {*self.disturbances}):
            tested = self.disturbances[name].methods
            uses.append((f"disturbances.{name}.methods", "method", tested, compare.methods))
        for name in sorted({*compare.layers} & {*self.layers}):
            uses.append((f"layers.{name}", "backbone", self.layers[name], compare.backbones))
        for where, kind, names, known in uses:
            for name in names:
                if name not in known:
                    raise unknown_name(kind, name, known, where)
                if names.count(name) > 1:
                    raise SacdError(f"{where}: '{name}' stands twice.")
        taken = {*self.methods} & {*REFERENCES, REFERENCE_SCORES}
        if taken:
            raise SacdError(f"methods.{min(taken)}: the name stands for a floor or ceiling.")

    def _require_comparison(self) -> None:
        compare = self.compare
        if set(compare.networks) != {*compare.backbones, compare.judge}:
            raise SacdError("compare.networks: must be compare.backbones and compare.judge.")
        if compare.judge in compare.backbones:
            raise SacdError(
                f"compare.judge: '{compare.judge}' is itself inverted (compare.backbones); "
                f"a judge must be a network that no adapter saw."
            )
        if compare.probes and self.images.source != "shapes":
            raise SacdError("probes: need true factors, which only images.source 'shapes' has.")

    def _require_images(self) -> None:
        if self.images.per_class.train < self.images.per_class.test:
            raise SacdError("images.per_class: train must not be less than test.")
        classes = self.images.classes
        if isinstance(classes, list) and len(set(classes)) < len(classes):
            raise SacdError(f"images.classes: a class stands twice in {classes}.")
        if autoencoder := self.prior.autoencoder:
            levels = autoencoder.options.get("block_out_channels")
            if not isinstance(levels, list) or not levels:
                raise SacdError("prior.autoencoder.options.block_out_channels: give its widths.")
            factor = 2 ** (len(levels) - 1)
            if self.images.size % factor:
                raise SacdError(
                    f"images.size: {self.images.size} is no multiple of {factor}, by which the "
                    f"autoencoder shrinks images (prior.autoencoder.options.block_out_channels)."
                )

    def _require_networks(self) -> None:
        for where, network in self._networks().items():
            for part, recipe in (
                ("training", network.training),
                ("refinement", network.refinement),
            ):
                if recipe and recipe.dense and self.images.source != "shapes":
                    raise SacdError(
                        f"{where}.{part}.dense: needs true masks, which only images.source "
                        f"'shapes' has."
                    )
            if network.source != "train" and network.refinement is not None:
                raise SacdError(f"{where}.refinement: only a network of source 'train' is refined.")
            if network.source == "train" and network.input_size != self.images.size:
                raise SacdError(
                    f"{where}.input_size: is trained here on images of {self.images.size} px "
                    f"(images.size), so it must be that."
                )

    def _networks(self) -> dict[str, BackboneSettings]:
        """Every section that describes a network, by its path: backbones and critics."""
        networks = {f"backbones.{name}": backbone for name, backbone in self.backbones.items()}
        if autoencoder := self.prior.autoencoder:
            networks["prior.autoencoder.critic"] = autoencoder.critic
            if refinement := autoencoder.refinement:
                networks["prior.autoencoder.refinement.critic"] = refinement.critic
        return networks

    def _require_recipes(self) -> None:
        trained: dict[str, tuple[str, Training | None]]
        trained = {where: (n.source, n.training) for where, n in self._networks().items()}
        trained |= {f"probes.{n}": (p.source, p.training) for n, p in self.probes.items()}
        for where, (source, recipe) in trained.items():
            if source == "train" and recipe is None:
                raise SacdError(f"{where}: source is 'train', so {where}.training must be given.")
        if self.prior.source == "train" and not (self.prior.autoencoder and self.prior.unet):
            raise SacdError("prior: source is 'train', so autoencoder and unet must be given.")

    def _require_sweeps(self) -> None:
        for name in self.compare.sweeps:
            sweep = self.sweeps[name]
            if sweep.method not in self.compare.methods:
                raise unknown_name(
                    "method", sweep.method, self.compare.methods, f"sweeps.{name}.method"
                )
            for changes in sweep.combinations():
                try:
                    changed(self.methods[sweep.method], changes)
                except SacdError as error:
                    raise SacdError(f"sweeps.{name}.over: {error}") from error


def changed(method: MethodSettings, changes: dict[str, float | int]) -> MethodSettings:
    """A method with other values at (dotted) keys; raises `SacdError` if it can't have them."""
    values = method.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.get(parent) or {}
        if last not in place:
            raise SacdError(f"a method of type '{method.type}' has no '{key}' here.")
        place[last] = value
    try:
        return type(method).model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SacdError(f"{where}: {problem['msg']} (found: {short(problem['input'])})") from error


def load_settings(path: Path = PARAMS) -> Settings:
    """Read and check params.yaml; every mistake in it is named in one `SacdError`."""
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise SacdError(
            f"{path.absolute()}: no such file; run in an experiment's folder "
            f"(or snakemake --directory FOLDER)."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SacdError(f"{path}: not valid YAML: {error}") from error
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        lines = [explain(problem, raw, Settings) for problem in error.errors()]
        raise SacdError(f"{path}:\n" + "\n".join(f"  {line}" for line in lines)) from error
    except SacdError as error:
        raise SacdError(f"{path}: {error}") from error


def pick(known: dict[str, Any], name: str, kind: str) -> Any:
    """The section of a name given on the command line; an unknown one lists what there is."""
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


def section(settings: Settings, path: str) -> Any:
    """The part of the settings at a dotted path, as plain values."""
    value: Any = settings.model_dump()
    for key in path.split("."):
        value = value[key]
    return value


def training_folder(settings: Settings, backbone: str, method: str) -> Path | None:
    """Where the network lies that was trained for a method, if one was."""
    chosen = settings.methods[method]
    if isinstance(chosen, AdapterMethod):
        return adapter_folder(backbone, chosen.adapter)
    if isinstance(chosen, DecoderMethod):
        return decoder_folder(backbone, chosen.decoder)
    return None
