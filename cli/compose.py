"""Compose the features of two images, and draw what they make together."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from cli.one_image import Request, draw, open_request, require_kind
from cli.steer import KINDS, read_mask, save_strip
from sacd.concepts.edits import mix, mix_on_sphere, transplant
from sacd.errors import SacdError
from sacd.metrics.features import feature_scores

WAYS = {"line": mix, "sphere": mix_on_sphere}


@dataclass(frozen=True)
class ComposeRequest(Request):
    """With the image `other`: mixed by each of `weights` along `path`, or transplanted into the
    white of the image `mask`."""

    other: Path
    weights: list[float]
    path: str
    mask: Path | None


def compose(request: ComposeRequest) -> None:
    """Write a strip to `request.out` (.png, .pdf); print what it holds of both images."""
    require_kind(request.out, KINDS)
    if any(not 0 <= weight <= 1 for weight in request.weights):
        raise SacdError("--weights must be from 0 to 1.")
    opened = open_request(request, request.other)
    inverter = opened.inverter
    features, logits = inverter.look(opened.images)
    first, second = features.cpu()[:1], features.cpu()[1:]
    if request.mask is None:
        maps = {f"{t:g}": WAYS[request.path](first, second, t) for t in sorted({*request.weights})}
    else:
        region = read_mask(request.mask, inverter.image_size, (first.shape[2], first.shape[3]))
        maps = {"as it was": first, "transplant": transplant(first, second, region)}
    drawn = draw(request, opened, torch.cat(list(maps.values())))
    save_strip(request, opened, opened.images, list(maps), drawn)
    rows = []
    for (title, asked), samples in zip(maps.items(), drawn, strict=True):
        ours, said = inverter.look(samples)
        row: dict[str, str | float] = {"composed": title}
        for name, truth in (("asked", asked), ("first", first), ("second", second)):
            cosines = feature_scores(ours.cpu(), truth.expand_as(ours.cpu()))["cos_median"]
            row[f"cos_{name}"] = float(cosines.mean())
        if said is not None and logits is not None:
            shares = said.softmax(1).mean(0)
            for name, classes in zip(("first", "second"), logits.argmax(1).tolist(), strict=True):
                row[f"p_{name}"] = float(shares[classes])
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))
    print(f"{request.out}: both originals, then what was composed")
