"""The sections of params.yaml. There are no defaults: DVC can only track what is written down."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings.concepts import ConceptSettings, EditSettings, ProbeSettings
from pipeline.settings.methods import MethodSettings
from pipeline.settings.section import Fraction, Name, Positive, Section


class PerClass(Section):
    train: Positive
    val: Positive
    test: Annotated[int, Field(ge=2)]  # a floor is another image of the class


class Images(Section):
    """Which images: `source` is "shapes", a folder, .tar or .zip in a layout that
    `sacd.images.layout` reads, or a folder with ImageNet's official archives."""

    source: str
    size: Annotated[int, Field(ge=32)]  # as the smallest photograph that is read
    classes: Literal["all"] | Positive | Annotated[list[str], Field(min_length=1)]
    per_class: PerClass
    max_skipped: Fraction


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

    color_jitter: Fraction
    blur: Annotated[float, Field(ge=0)]
    noise: Fraction


class BackboneTraining(Training):
    """`dense` adds a loss at every location, which needs the true masks of `shapes`."""

    augmentation: AugmentationSettings
    dense: bool


class BackboneSettings(Section):
    """`source` is "train", "timm" (its hub), a safetensors file or a folder made by this rule.

    `finetune` trains the network further, say under augmentations that it could not begin with.
    """

    source: str
    model: str
    options: dict[str, Any]
    input_size: Positive
    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]
    layer: str
    training: BackboneTraining | None
    finetune: BackboneTraining | None


class Criticised(Section):
    """Training against a feature loss; its `critic` must not be a backbone under study."""

    critic: BackboneSettings
    critic_layers: Annotated[list[str], Field(min_length=1)]
    feature_weight: Annotated[float, Field(ge=0)]
    training: Training


class TrainedAutoencoder(Criticised):
    """`options` go to diffusers' AutoencoderKL; `finetune` trains the decoder further."""

    type: Literal["trained"]
    options: dict[str, Any]
    kl_weight: Annotated[float, Field(ge=0)]
    finetune: Criticised | None


class ImportedAutoencoder(Section):
    """`source` is a folder of diffusers' AutoencoderKL or AutoencoderTiny, or its name on the hub.

    Its latents are standardised over the train split, channel by channel.
    """

    type: Literal["imported"]
    source: str


class DiffusionSettings(Section):
    """For `noise_shift` see `sacd.prior.diffusion.create_scheduler`."""

    type: Literal["diffusion"]
    noise_shift: Annotated[float, Field(gt=0)]


class FlowSettings(Section):
    """`shift` multiplies the odds of noise: above 1, more of the times are high."""

    type: Literal["flow"]
    shift: Annotated[float, Field(gt=0)]


class UnetSettings(Section):
    """`options` go to diffusers' UNet2DConditionModel; for `process` see `sacd.prior.process`.

    `finetune` trains the network further, from a learning rate that is high again.
    """

    options: dict[str, Any]
    process: Annotated[DiffusionSettings | FlowSettings, Field(discriminator="type")]
    training: Training
    finetune: Training | None


class PriorSettings(Section):
    """`source` is "train", a folder in the diffusers layout, or its name on the hub."""

    source: str
    autoencoder: (
        Annotated[TrainedAutoencoder | ImportedAutoencoder, Field(discriminator="type")] | None
    )
    unet: UnetSettings | None


class SegmenterSettings(Section):
    """A U-Net of `width` that draws the object's mask, trained on true ones."""

    source: str
    width: Positive
    training: Training | None


class AdapterSettings(Section):
    """See `sacd.adapters`: `hidden` is the feature encoder's width, `condition_dropout` how
    often training replaces the features by the null one."""

    type: Literal["controlnet", "lite"]
    conditioning: Literal["spatial", "pooled"]
    hidden: Positive
    condition_dropout: Annotated[float, Field(ge=0, lt=1)]
    training: Training


class DecoderSettings(Section):
    """A feed-forward decoder, see `sacd.baselines.decoder`: `widths` from image to latent grid."""

    # In eights, as its channels are normalised.
    widths: Annotated[list[Annotated[int, Field(gt=0, multiple_of=8)]], Field(min_length=1)]
    feature_weight: Annotated[float, Field(ge=0)]
    training: Training


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

    @model_validator(mode="after")
    def few_enough(self) -> Self:
        if (count := prod(map(len, self.over.values()))) > 1000:
            raise ValueError(f"over: {count} combinations, more than 1000")
        return self

    def combinations(self) -> list[dict[str, float | int]]:
        """A dictionary of values by key for each."""
        return [
            dict(zip(self.over, values, strict=True)) for values in product(*self.over.values())
        ]


class Disturbance(Section):
    """A test of robustness: `methods` reconstruct `images` test images, one sample each.

    Every one of `levels` is tried, and none at all.
    """

    images: Annotated[int, Field(ge=2)]  # a floor is what was drawn for another image
    methods: Annotated[list[Name], Field(min_length=1)]

    @model_validator(mode="after")
    def levels_differ(self) -> Self:
        levels: Sequence[object] = getattr(self, "levels", ())
        if len(set(levels)) < len(levels):
            raise ValueError("a level stands twice")
        return self


class Graded(Disturbance):
    """A disturbance of several kinds, whose levels are numbers: `LIMITS` of each, and `WHOLE` ones.

    The limits keep out what means nothing, as more than all channels dropped.
    """

    LIMITS: ClassVar[dict[str, tuple[float, float]]]
    WHOLE: ClassVar[set[str]]

    kind: str
    levels: Annotated[list[float], Field(min_length=1)]

    @model_validator(mode="after")
    def levels_mean_something(self) -> Self:
        least, most = self.LIMITS[self.kind]
        number = "whole number" if self.kind in self.WHOLE else "number"
        for level in self.levels:
            whole = level.is_integer() or self.kind not in self.WHOLE
            if not (least <= level <= most and whole):
                raise ValueError(
                    f"level {level:g} of '{self.kind}' is no {number} from {least:g} to {most:g}"
                )
        return self


class Corruption(Graded):
    """Corrupted images, see `sacd.robustness.corruptions` for what a level is."""

    LIMITS: ClassVar = {
        "noise": (0, 1), "blur": (0.1, 64), "jpeg": (1, 100), "contrast": (0, 10),
        "brightness": (0, 10), "pixelate": (1, 256),
    }  # fmt: skip
    WHOLE: ClassVar = {"jpeg", "pixelate"}

    type: Literal["corruption"]
    kind: Literal["noise", "blur", "jpeg", "contrast", "brightness", "pixelate"]


class Attack(Graded):
    """Adversarial images, see `sacd.robustness.attacks`; a level is a budget, of 255."""

    LIMITS: ClassVar = {"pgd": (1, 255), "auto": (1, 255)}
    WHOLE: ClassVar = {"pgd", "auto"}

    type: Literal["attack"]
    kind: Literal["pgd", "auto"]
    targeted: bool
    steps: Positive

    @model_validator(mode="after")
    def has_a_direction(self) -> Self:
        if self.targeted and self.kind != "pgd":
            raise ValueError(f"'{self.kind}' only leads away from a class: targeted is for 'pgd'")
        return self


class FeatureDisturbance(Graded):
    """Disturbed features of undisturbed images, see `sacd.robustness.features`.

    A level is a deviation for noise, a share for dropout, a number of bits for quantisation.
    """

    LIMITS: ClassVar = {"noise": (0, 100), "dropout": (0, 1), "quantisation": (1, 16)}
    WHOLE: ClassVar = {"quantisation"}

    type: Literal["features"]
    kind: Literal["noise", "dropout", "quantisation"]


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
    `disentangled` names the edits of which it is tabulated what else they change.
    """

    networks: list[Name]
    backbones: Annotated[list[Name], Field(min_length=1)]
    judge: Name
    segmenters: list[Name]
    adapters: list[Name]
    decoders: list[Name]
    methods: list[Name]
    ranking: list[Name]
    sweeps: list[Name]
    disturbances: list[Name]
    layers: list[Name]
    concepts: list[Name]
    probes: list[Name]
    edits: list[Name]
    disentangled: list[Name]
    main_method: Name
    gap_closed: Fraction


class Settings(Section):
    """All of params.yaml.

    `layers` names backbones that are layers of one network, from shallow to deep.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)]  # what scikit-learn takes
    images: Images
    backbones: dict[Name, BackboneSettings]
    prior: PriorSettings
    segmenters: dict[Name, SegmenterSettings]
    adapters: dict[Name, AdapterSettings]
    decoders: dict[Name, DecoderSettings]
    methods: dict[Name, MethodSettings]
    sweeps: dict[Name, SweepSettings]
    disturbances: dict[Name, DisturbanceSettings]
    layers: dict[Name, Annotated[list[Name], Field(min_length=1)]]
    concepts: dict[Name, ConceptSettings]
    probes: dict[Name, ProbeSettings]
    edits: dict[Name, EditSettings]
    compare: Compare
