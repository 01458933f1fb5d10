"""The section `methods` of params.yaml: the ways to draw images from features."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.settings.mistakes import short
from pipeline.settings.section import Interval, Name, Positive, Section
from sacd.errors import SacdError


class RefinementSettings(Section):
    """See `sacd.sampling.refinement.Refinement`."""

    steps: Positive
    rate: Annotated[float, Field(gt=0)]


class AdapterMethod(Section):
    """Ours: the prior, conditioned by an adapter. `features` are true ones, or null (what the prior
    does by itself).

    For all guidance see `sacd.sampling.sampler.sample_latents`; of every `best_of` samples the one
    with the nearest features is kept.
    """

    type: Literal["adapter"]
    adapter: Name
    features: Literal["true", "null"]
    guidance: Annotated[float, Field(ge=0)]
    guidance_interval: Interval
    energy_guidance: Annotated[float, Field(ge=0)]
    steps: Positive
    refinement: RefinementSettings | None
    best_of: Positive
    samples: Positive

    @model_validator(mode="after")
    def _null_is_not_guided(self) -> "AdapterMethod":
        guided = self.guidance != 1 or self.energy_guidance != 0
        if self.features == "null" and (self.refinement or self.best_of > 1 or guided):
            raise ValueError(
                "features: 'null' leaves nothing to go by: refinement must be null, best_of 1, "
                "guidance 1 and energy_guidance 0."
            )
        return self

    @property
    def drawing(self) -> dict[str, Any]:
        """Arguments of `sacd.sampling.inverter.Inverter.draw_latents`."""
        return self.model_dump(
            include={"steps", "guidance", "guidance_interval", "energy_guidance"}
        )


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


def changed(method: MethodSettings, changes: dict[str, float | int]) -> MethodSettings:
    """A method with other values at (dotted) keys; raises `SacdError` if it can't have them."""
    values = method.model_dump()
    for key, value in changes.items():
        *parents, last = key.split(".")
        place: Any = values
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            raise SacdError(f"a method of type '{method.type}' has no '{key}' here.")
        place[last] = value
    try:
        return type(method).model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SacdError(f"{where}: {problem['msg']} (found: {short(problem['input'])})") from error


def with_samples(method: MethodSettings, count: int) -> MethodSettings:
    """A method with `count` samples an image; one that answers with one image stays as it is."""
    if "samples" not in type(method).model_fields:
        return method
    return changed(method, {"samples": count})
