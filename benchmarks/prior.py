"""Measure how near to images comes what a prior draws by itself.

    python benchmarks/prior.py [EXPERIMENT] [--prior FOLDER] [--images 512] [--name embedded]

Fréchet distances in the judge's features, averaged over locations, to images of the train split of
a finished experiment: of samples from noise alone, guided and not, of as many other images of that
split, which no prior can be expected to pass, and of these through the prior's autoencoder. Beside
them how sure the judge is of its classes, and how many of those it finds (exp of the entropy of
their mean). Writes benchmarks/prior/NAME.csv.
"""

from pathlib import Path

import pandas as pd
import torch
from harness import add_experiment, arguments_of, publish
from torch import Tensor

from pipeline.artefacts import PRIOR, backbone_folder, image_folder
from pipeline.program import device
from pipeline.settings.load import load_settings
from sacd.backbones.backbone import Backbone
from sacd.features.cache import extract
from sacd.metrics.sets import frechet_distance
from sacd.prior.latents import round_trip
from sacd.prior.prior import Prior
from sacd.shards import Shards
from stages.plot_prior import GUIDANCE, dream


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--prior", type=Path, help="another than the experiment's")
    parser.add_argument("--images", type=int, default=512)
    arguments = parser.parse_args()
    settings = load_settings(arguments.experiment / "params.yaml")
    prior = Prior.from_pretrained(arguments.prior or arguments.experiment / PRIOR).to(device())
    images = Shards(arguments.experiment / image_folder("train")).read_all("images")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(settings.seed))
    others, reference = images[order[: arguments.images]], images[order[arguments.images :]]
    sets = {
        "other images": others,
        "through the autoencoder": round_trip(prior.vae, others, device()),
    } | {
        name: dream(prior, arguments.images, images.shape[-1], settings.seed, guidance)
        for name, guidance in (("drawn without guidance", 1.0), ("drawn by the prior", GUIDANCE))
    }
    judge = Backbone.from_pretrained(
        arguments.experiment / backbone_folder(settings.compare.judge)
    ).to(device())
    truth, _ = seen(judge, reference)
    table = pd.DataFrame(
        [{"set": name} | scores(judge, ours, truth) for name, ours in sets.items()]
    )
    table["of_other_images"] = table.frechet_distance / table.frechet_distance[0]
    what = f"{arguments.images} images a set against {len(reference)} images"
    publish(table, what, "prior", arguments.name)


def scores(judge: Backbone, images: Tensor, truth: Tensor) -> dict[str, float]:
    """How near images (N, 3, H, W) come to the features `truth` (M, C), and what the judge says."""
    features, probabilities = seen(judge, images)
    mean = probabilities.mean(0)
    return {
        "frechet_distance": frechet_distance(features, truth),
        "judge_certainty": float(probabilities.amax(1).mean()),
        "classes_found": float(torch.special.entr(mean).sum().exp()),
    }


def seen(judge: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """The judge's features of images, averaged over locations (N, C), and probabilities (N, K)."""
    found = extract(judge, images, device())
    return found["features"].float().mean((2, 3)), found["logits"].float().softmax(1)


if __name__ == "__main__":
    main()
