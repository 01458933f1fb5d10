"""The sections of params.yaml on what the method is for: concepts, and edits of features."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.settings.section import Name, Positive, Section


class Concepts(Section):
    """Directions looked for in the features of `images` train images, see `sacd.concepts`."""

    images: Annotated[int, Field(ge=2)]


class FactoredConcepts(Concepts):
    """`count` directions that need no labels."""

    type: Literal["pca", "nmf", "dictionary"]
    count: Positive


class ClassConcepts(Concepts):
    """Directions to the `count` classes that the backbone sees most often; needs its last layer."""

    type: Literal["classes"]
    count: Positive


class LabelledConcepts(Concepts):
    """Directions to what the manifest's columns tell apart.

    Features are averaged over the true object, the rest of the image, or all of it (`where`); for
    `vector` see `sacd.concepts.directions.activation_vector`.
    """

    type: Literal["labels"]
    columns: Annotated[list[str], Field(min_length=1)]
    where: Literal["object", "background", "image"]
    vector: Literal["boundary", "pattern"]

    def column_of(self, direction: str) -> str | None:
        """Which of the columns a direction is of, as `fill` of fill_stripes."""
        columns = [column for column in self.columns if direction.startswith(f"{column}_")]
        return max(columns, key=len, default=None)  # fill_period_high is not of `fill`


ConceptSettings = Annotated[
    FactoredConcepts | ClassConcepts | LabelledConcepts, Field(discriminator="type")
]


class ProbeSettings(Section):
    """The factors (`columns` of the manifest) that the judge's features tell, see
    `sacd.concepts.probe`; it is learnt from `images` train images."""

    columns: Annotated[list[str], Field(min_length=1)]
    images: Annotated[int, Field(ge=2)]


class Edit(Section):
    """An edit of the features of `images` test images, drawn by `methods`.

    `samples` are drawn of each, with the same noise whatever the edit.
    """

    images: Annotated[int, Field(ge=2)]  # with one there is no other to mix it with
    samples: Positive
    methods: Annotated[list[Name], Field(min_length=1)]


class Steering(Edit):
    """`c + a s v`: a step along `directions` v of the set `concepts`, at locations `where`.

    Each of `strengths` is an a, in units of the direction's scale s (`sacd.concepts.directions`).
    For where a concept is active see `sacd.concepts.regions`.
    """

    type: Literal["steering"]
    concepts: Name
    directions: Annotated[list[str], Field(min_length=1)]
    strengths: Annotated[list[float], Field(min_length=1)]
    where: Literal["image", "object", "background", "active"]

    @model_validator(mode="after")
    def strengths_differ(self) -> Self:
        _require_different(self.strengths, "strengths")
        if 0 in self.strengths:
            raise ValueError("strengths: 0 is always drawn; leave it out")
        return self


class Mixture(Edit):
    """`(1 - t) a + t b` with another image's features b, for each t of `weights`.

    Along a line, or on the sphere (`sacd.concepts.edits.mix_on_sphere`).
    """

    type: Literal["mixture"]
    path: Literal["line", "sphere"]
    weights: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]

    @model_validator(mode="after")
    def weights_differ(self) -> Self:
        _require_different(self.weights, "weights")
        return self


class Transplant(Edit):
    """Another image's features in a region: its object's, or the right half."""

    type: Literal["transplant"]
    region: Literal["object", "half"]


class Removal(Edit):
    """The object's region (or the image's `centre`) filled with the mean of what lies around."""

    type: Literal["removal"]
    region: Literal["object", "centre"]


class Union(Edit):
    """The object of another image beside this one's; the other is one that overlaps it least."""

    type: Literal["union"]


EditSettings = Annotated[
    Steering | Mixture | Transplant | Removal | Union, Field(discriminator="type")
]


def _require_different(values: list[float], key: str) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{key}: a value stands twice")
