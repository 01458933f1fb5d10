"""What all sections of params.yaml are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0, le=10**9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"\A[a-z0-9_]+\z", max_length=64)]


def _ascending(ends: list[float]) -> list[float]:
    if ends[0] > ends[1]:
        raise ValueError("its end is below its start")
    return ends


Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Section(BaseModel):
    """A section of params.yaml: unknown keys are errors, numbers finite, values not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
