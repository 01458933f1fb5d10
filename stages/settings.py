"""params.yaml as typed models. There are no defaults: DVC can only track what is written down."""

from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sacd.errors import SacdError, unknown_name
from stages.artefacts import REFERENCE_SCORES, REFERENCES

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

    type: Literal["controlnet"]
    conditioning: Literal["spatial", "pooled"]
    hidden: Positive
    drop: Share
    training: Training


class MethodSettings(Section):
    """A way to draw samples: `features` true ones, or null (what the prior does by itself).

    For `guidance` and `guided_below` see `sacd.sampling.sampler.sample_latents`.
    """

    adapter: Name
    features: Literal["true", "null"]
    guidance: Annotated[float, Field(ge=0)]
    guided_below: Share
    steps: Positive
    samples: Positive


class Compare(Section):
    """What is run: names defined in the sections of the same name; one judge for all.

    `networks` are all whose features are cached: the inverted `backbones` and the `judge`.
    `methods` stand in the order in which they are expected to do well; `gap_closed` is the share
    of the way from floor to ceiling that the main method should go (table checks.csv).
    """

    networks: list[Name]
    backbones: list[Name]
    judge: Name
    probes: list[Name]
    adapters: list[Name]
    methods: list[Name]
    main_method: Name
    gap_closed: Share


class Settings(Section):
    """All of params.yaml; `root` is the way to the repository's root, for dvc.yaml."""

    root: str
    seed: Annotated[int, Field(ge=0)]
    images: Images
    backbones: dict[Name, BackboneSettings]
    prior: PriorSettings
    probes: dict[Name, ProbeSettings]
    adapters: dict[Name, AdapterSettings]
    methods: dict[Name, MethodSettings]
    compare: Compare

    @model_validator(mode="after")
    def fits_together(self) -> "Settings":
        """What no section can check by itself."""
        self._require_names()
        self._require_comparison()
        self._require_images()
        self._require_networks()
        self._require_recipes()
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
            ("compare.methods", "method", compare.methods, self.methods),
        ]
        if compare.methods:
            uses.append(("compare.main_method", "method", [compare.main_method], compare.methods))
        uses += [
            (f"methods.{name}.adapter", "adapter", [method.adapter], compare.adapters)
            for name, method in self.methods.items()
            if name in compare.methods
        ]
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
        lines = [_explain(problem, raw) for problem in error.errors()]
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


def _explain(problem: Any, raw: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where or 'file'}: {problem['msg']} (found: {_short(problem['input'])})"
    *parents, key = problem["loc"]
    known = _keys_of(parents)
    nearest = get_close_matches(str(key), known, n=1, cutoff=0.4)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return f"{where}: unknown key; {hint}Keys here: {', '.join(known)}."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys_of(path: list[Any]) -> list[str]:
    """Field names of the section at `path`, found by walking the models' annotations."""
    model: type[Section] = Settings
    for part in path:
        # The keys of a dict[str, X] lead to X itself, which is where we are already.
        if part in model.model_fields:
            model = _section_in(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    """The section inside `X`, `X | None` or `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section_in(inner):
            return found
    return None
