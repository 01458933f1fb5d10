"""Explain one image: samples from its features, where they agree with it and where they vary."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cli.one_image import Request, draw, open_request, require_kind
from pipeline.page import picture, write_page
from sacd.errors import SacdError
from sacd.figures.explanation import Seen, plot_explanation
from sacd.figures.style import render, rgb, score_note
from sacd.files import atomic
from sacd.metrics.features import class_scores, feature_scores, location_cosines
from sacd.metrics.images import pixel_spread, psnr_db
from sacd.sampling.inverter import Inverter

KINDS = (".html", ".png", ".pdf")
HOW_TO_READ = (
    "Above: the image, its round trip through the prior's autoencoder (what that returns of it), a "
    "sample without features (what the prior draws by itself), and samples from the image's "
    "features. Below: where the samples differ from one another (bright: left open by the features "
    "and filled in by the prior; dark: alike in all), and where each picture's features agree with "
    "the image's."
)


def explain(request: Request) -> None:
    """Write `request.out` (.html, .png or .pdf); prints the table of scores."""
    image, out = request.image, request.out
    if request.samples < 2:
        raise SacdError("--samples must be at least 2: one has no spread.")
    require_kind(out, KINDS)
    opened = open_request(request)
    inverter, original = opened.inverter, opened.images[0]
    drawn = draw(request, opened, inverter.features(opened.images))[0]
    nothing = inverter.sample(None, [(image.name, 0)], request.seed, **opened.drawing)
    pictures = {
        "autoencoder\n(ceiling)": inverter.round_trip(original[None])[0],
        "no features\n(floor)": nothing[0],
        **{f"sample {number + 1}": sample for number, sample in enumerate(drawn)},
    }
    scores, cosines = _look(inverter, original, torch.stack(list(pictures.values())))
    spread = pixel_spread(drawn[None].float() / 255)[0].numpy()
    seen = [
        Seen(title, rgb(shown), values, score_note(row["cos_median"], row.get("top1_match")))
        for (title, shown), values, row in zip(
            pictures.items(), cosines, scores.to_dict("records"), strict=True
        )
    ]
    scores.insert(0, "image", [title.replace("\n", " ") for title in pictures])
    figure = plot_explanation(rgb(original), spread, seen)
    if out.suffix.lower() == ".html":
        title = f"What {request.adapter.resolve().parent.name} sees in {image.name}"
        table = scores.to_html(index=False, border=0, float_format="%.3f")
        parts = [f"<p>{HOW_TO_READ}</p>", picture(render(figure, "png"), title), table]
        write_page(out, title, parts)
    else:
        with atomic(out) as temporary:
            temporary.write_bytes(render(figure, out.suffix[1:].lower()))
    print(scores.to_string(index=False, float_format="%.3f"))
    print(f"mean spread of the samples: {spread.mean():.3f}")
    print(f"{out}: the explanation")


def _look(
    inverter: Inverter, original: Tensor, pictures: Tensor
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Scores of pictures (N, 3, S, S) against the original, and their cosine maps (h, w)."""
    features, logits = inverter.look(torch.cat([original[None], pictures]))
    features = features.cpu()
    truth, ours = features[:1].expand(len(pictures), -1, -1, -1), features[1:]
    found = feature_scores(ours, truth)
    if logits is not None:
        said = logits.cpu()
        found |= class_scores(said[1:], said[:1].expand(len(pictures), -1))
    found["psnr_db"] = psnr_db(pictures / 255, original[None].expand_as(pictures) / 255)
    names = ("cos_median", "cos_q05", "cos_pooled", "rel_l2", "top1_match", "psnr_db")
    table = pd.DataFrame({name: found[name].numpy() for name in names if name in found})
    maps = location_cosines(ours, truth).unflatten(1, tuple(features.shape[2:]))
    return table, list(maps.numpy())
