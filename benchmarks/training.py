"""Compare ways to train an adapter: samples a second, and what they teach, in one run.

    python benchmarks/training.py [EXPERIMENT] [--share 1.0] [--name cpu_of_two_cores]

For the first inverted backbone and the first adapter of params.yaml of a finished experiment:

- `published`: FeatInv's recipe (arXiv 2505.21032): batches of 8 in fp32, latents and features
  computed at each step;
- `diffusers`: the best practice of its ControlNet training: the same by bf16 (where the device has
  it) and in batches of the experiment's size;
- `sacd`: our rule's own, on cached latents and features.

Each trains a new adapter from the same weights by as many samples as the experiment does (or a
`--share` of them), by the same loop. The learning rate of smaller batches is smaller by the square
root (Malladi et al. 2022, arXiv 2205.10287). `cos_median` is that of validation images which each
then draws by the main method. Beside the samples a second stands the share of the device's matrix
rate, measured in the same run, that the work of adapter and U-Net makes up. Writes
benchmarks/training/NAME.csv.
"""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from harness import add_experiment, arguments_of, publish
from rates import matrix_product, rate
from torch import Tensor

from pipeline.costs import operations
from pipeline.inputs import stratified_rows, whitening_of
from pipeline.program import device, progress
from pipeline.settings.load import load_settings
from pipeline.settings.methods import AdapterMethod
from sacd.adapters.adapter import Adapter
from sacd.adapters.registry import create_adapter, load_adapter
from sacd.backbones.backbone import Backbone
from sacd.metrics.features import feature_scores
from sacd.numerics import numerics
from sacd.optimization import Recipe, Step, Trained, train
from sacd.prior.diffusion import noised
from sacd.prior.prior import Prior
from sacd.prior.vae import encode
from sacd.sampling.inverter import Inverter
from sacd.shards import Shards
from sacd.training.adapter import NOISE_EXPONENT, Pairs, train_adapter

HELD_OUT = 32
DRAWN = 40  # validation images
PUBLISHED_BATCH = 8


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--share", type=float, default=1.0, help="of the experiment's training")
    arguments = parser.parse_args()
    subject = Subject(arguments.experiment)
    recipe = replace(subject.recipe, steps=max(1, round(arguments.share * subject.recipe.steps)))
    few = replace(
        recipe,
        batch=PUBLISHED_BATCH,
        steps=recipe.steps * recipe.batch // PUBLISHED_BATCH,
        warmup=recipe.warmup * recipe.batch // PUBLISHED_BATCH,
        learning_rate=recipe.learning_rate * math.sqrt(PUBLISHED_BATCH / recipe.batch),
        precision="fp32",
    )
    limit = rate(matrix_product(), 5)
    work = subject.operations_a_sample()
    rows = [
        {"way": "published", **subject.on_the_fly(few)},
        {"way": "diffusers", **subject.on_the_fly(recipe)},
        {"way": "sacd", **subject.on_caches(recipe)},
    ]
    table = pd.DataFrame(rows)
    table["of_matrix_rate"] = table.samples_per_second * work / limit
    for rival in ("published", "diffusers"):
        speed = table.loc[table.way == rival, "samples_per_second"].item()
        table[f"speed_vs_{rival}"] = table.samples_per_second / speed
    what = f"{recipe.steps * recipe.batch} samples, matrix product {limit / 1e12:.2f} TFLOP/s"
    publish(table, what, "training", arguments.name)


class Subject:
    """An experiment's first backbone and adapter, its prior, and its images, latents, features."""

    def __init__(self, experiment: Path):
        settings = load_settings(experiment / "params.yaml")
        backbone, adapter = settings.compare.backbones[0], settings.compare.adapters[0]
        chosen, method = settings.adapters[adapter], settings.methods[settings.compare.main_method]
        assert isinstance(method, AdapterMethod)
        self.recipe = Recipe(**chosen.training.model_dump(), seed=settings.seed)
        self.dropout, self.pooled = chosen.condition_dropout, chosen.conditioning == "pooled"

        self.drawing, self.seed = method.drawing, settings.seed
        self.prior = Prior.from_pretrained(experiment / "models/prior").to(device())
        network = Backbone.from_pretrained(experiment / "models/backbones" / backbone)
        self.backbone = network.to(device())
        self._folder = experiment / "adapters" / backbone / adapter
        self._images = Shards(experiment / "data/images/train")
        self._latents = Shards(experiment / "latents/train")
        self._features = Shards(experiment / "features" / backbone / "train")
        self._held_out = Shards(experiment / "features" / backbone / "val")

    def adapter(self) -> Adapter:
        """A new one, with the same weights for each way to train it."""
        torch.manual_seed(self.seed)
        config = load_adapter(self._folder, self.prior.unet).config
        whitening = whitening_of(self._features, self.pooled)
        return create_adapter(config, whitening, self.prior.unet).to(device())

    def on_caches(self, recipe: Recipe) -> dict[str, float]:
        """The rule's function."""
        adapter = self.adapter()
        features = self._features.read("features", range(HELD_OUT))
        held_out = self._latents.read("latents", range(HELD_OUT)), features, features.roll(1, 0)
        pairs = Pairs(
            len(self._latents),
            lambda rows: self._latents.read("latents", rows),
            lambda rows: self._features.read("features", rows),
        )
        with tempfile.TemporaryDirectory() as work:
            trained = train_adapter(
                adapter, self.prior, pairs, held_out, recipe, self.dropout, Path(work), device(),
                progress("sacd"),
            )  # fmt: skip
        return self.row(adapter, trained, recipe)

    def on_the_fly(self, recipe: Recipe) -> dict[str, float]:
        """Each step encodes its images and computes their features."""
        adapter = self.adapter().requires_grad_(True)

        def read(generator: torch.Generator) -> tuple[Tensor]:
            rows = torch.randint(len(self._images), (recipe.batch,), generator=generator)
            return (self._images.read("images", rows.tolist()),)

        def loss(step: Step) -> tuple[Tensor, dict[str, float]]:
            images = step.batch[0].float() / 255
            with torch.no_grad():
                latents = encode(self.prior.vae, images).float()
                features = self.backbone(images)[0].float()
            return self.loss(adapter, latents, features, step.generator), {}

        label = f"on the fly, batches of {recipe.batch}"
        with tempfile.TemporaryDirectory() as work:
            parameters = dict(adapter.named_parameters())
            trained = train(parameters, read, loss, recipe, Path(work), progress(label))
        adapter.load_state_dict(trained.weights, strict=False)
        return self.row(adapter.eval().requires_grad_(False), trained, recipe)

    def row(self, adapter: Adapter, trained: Trained, recipe: Recipe) -> dict[str, float]:
        """Samples a second, and how near validation images that are now drawn come."""
        rows = stratified_rows(self._held_out, DRAWN)
        keys = [(self._held_out.ids[row], 0) for row in rows]
        features = self._held_out.read("features", rows).float()
        inverter = Inverter(self.prior, adapter, self.backbone, device())
        seen = inverter.features(inverter.sample(features, keys, self.seed, **self.drawing)).cpu()
        return {
            "samples_per_second": recipe.steps * recipe.batch / trained.seconds,
            "cos_median": float(feature_scores(seen, features)["cos_median"].mean()),
        }

    def operations_a_sample(self) -> float:
        """Of the adapter and the U-Net, forward and backward."""
        adapter = self.adapter().requires_grad_(True)
        latents, features = (
            shards.read(name, range(2)).float().to(device())
            for name, shards in (("latents", self._latents), ("features", self._features))
        )
        generator = torch.Generator().manual_seed(0)
        with numerics(device(), "fp32"):
            return (
                operations(lambda: self.loss(adapter, latents, features, generator).backward()) / 2
            )

    def loss(
        self, adapter: Adapter, latents: Tensor, features: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The denoising loss of a batch, some features dropped."""
        dropped = torch.rand(len(latents), generator=generator) < self.dropout
        noisy, times, target = noised(self.prior.scheduler, latents, generator, NOISE_EXPONENT)
        hint = adapter.hint(features, dropped.to(device()))
        predicted = adapter(self.prior.unet, noisy, times, self.prior.prompts(len(latents)), hint)
        return F.mse_loss(predicted.float(), target)


if __name__ == "__main__":
    main()
