"""Compare ways to train an adapter: samples a second, in one run, on a finished experiment.

    python benchmarks/training.py [EXPERIMENT] [--seconds 30] [--name cpu_of_two_cores]

For the first inverted backbone and the first adapter of params.yaml:

- `published`: FeatInv's recipe (arXiv 2505.21032): batches of 8 in fp32, latents and features
  computed at each step;
- `diffusers`: the best practice of its ControlNet training: the same by bf16 (where the device has
  it), in batches of the experiment's size, with a fused optimizer;
- `sacd`: our rule's own function, on cached latents and features.

Beside the samples a second stands the share of the device's matrix rate, measured in the same run,
that the work of adapter and U-Net makes up. Writes benchmarks/training/NAME.csv.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from harness import add_experiment, arguments_of, publish, synchronise
from rates import matrix_product, rate
from torch import Tensor

from sacd.adapters.adapter import Adapter
from sacd.adapters.registry import load_adapter
from sacd.backbones.backbone import Backbone
from sacd.numerics import numerics
from sacd.optimization import Recipe
from sacd.prior.diffusion import noised
from sacd.prior.prior import Prior, encode
from sacd.shards import Shards
from sacd.training.adapter import Pairs, train_adapter
from stages.common import device
from stages.settings import load_settings
from stages.work import operations

HELD_OUT = 32
GIVEN = 512  # images to choose batches from


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--seconds", type=float, default=30, help="for each way")
    arguments = parser.parse_args()
    subject = Subject(arguments.experiment)
    recipe = subject.recipe
    ways = {
        "published": lambda: subject.on_the_fly(8, "fp32", arguments.seconds),
        "diffusers": lambda: subject.on_the_fly(recipe.batch, "bf16", arguments.seconds),
        "sacd": lambda: subject.on_caches(arguments.seconds),
    }
    limit = rate(matrix_product(), 5)
    work = subject.operations_a_sample()
    rows = []
    for way, train in ways.items():
        speed = train()
        rows.append(
            {"way": way, "samples_per_second": speed, "of_matrix_rate": speed * work / limit}
        )
    table = pd.DataFrame(rows)
    for rival in ("published", "diffusers"):
        speed = table.loc[table.way == rival, "samples_per_second"].item()
        table[f"speed_vs_{rival}"] = table.samples_per_second / speed
    what = f"matrix product {limit / 1e12:.2f} TFLOP/s"
    publish(table, what, "training", arguments.name)


class Subject:
    """An experiment's first backbone and adapter, its prior, and training images."""

    def __init__(self, experiment: Path):
        settings = load_settings(experiment / "params.yaml")
        backbone, adapter = settings.compare.backbones[0], settings.compare.adapters[0]
        chosen = settings.adapters[adapter]
        self.recipe = Recipe(**chosen.training.model_dump(), seed=settings.seed)
        self.drop = chosen.drop
        self.prior = Prior.from_pretrained(experiment / "models/prior").to(device())
        network = Backbone.from_pretrained(experiment / "models/backbones" / backbone)
        self.backbone = network.to(device())
        self._folder = experiment / "adapters" / backbone / adapter
        self._latents = Shards(experiment / "latents/train")
        self._features = Shards(experiment / "features" / backbone / "train")
        images = Shards(experiment / "data/images/train")
        self._images = images.read("images", range(min(GIVEN, len(images))))

    def adapter(self) -> Adapter:
        """Anew, for each way to train it further."""
        return load_adapter(self._folder, self.prior.unet).to(device())

    def on_caches(self, seconds: float) -> float:
        """Samples a second of the rule's function, by as many steps as fit into `seconds`."""
        features = self._features.read("features", range(HELD_OUT))
        held_out = self._latents.read("latents", range(HELD_OUT)), features, features.roll(1, 0)

        def run(steps: int) -> float:
            with tempfile.TemporaryDirectory() as work:
                trained = train_adapter(
                    self.adapter(),
                    self.prior,
                    Pairs(
                        len(self._latents),
                        lambda rows: self._latents.read("latents", rows),
                        lambda rows: self._features.read("features", rows),
                    ),
                    held_out,
                    replace(self.recipe, steps=steps),
                    self.drop,
                    Path(work),
                    device(),
                    lambda items, total: items,
                )
            return trained.seconds / steps

        return self.recipe.batch / run(max(10, int(seconds / run(10))))

    def on_the_fly(self, batch: int, precision: str, seconds: float) -> float:
        """Samples a second where each step encodes its images and computes their features."""
        adapter = self.adapter().requires_grad_(True)
        optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-5, fused=precision == "bf16")
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            rows = torch.randint(len(self._images), (batch,), generator=generator)
            images = self._images[rows].to(device()).float() / 255
            with numerics(device(), precision):
                with torch.no_grad():
                    latents = encode(self.prior.vae, images).float()
                    features = self.backbone(images)[0].float()
                loss = self.loss(adapter, latents, features, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()

        return batch / seconds_of(step, seconds)

    def operations_a_sample(self) -> float:
        """Of the adapter and the U-Net, forward and backward."""
        adapter = self.adapter().requires_grad_(True)
        latents, features = self.batch(2)
        generator = torch.Generator().manual_seed(0)
        with numerics(device(), "fp32"):
            return (
                operations(lambda: self.loss(adapter, latents, features, generator).backward()) / 2
            )

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Cached latents and features of the first training images."""
        latents = self._latents.read("latents", range(size)).float().to(device())
        return latents, self._features.read("features", range(size)).float().to(device())

    def loss(
        self, adapter: Adapter, latents: Tensor, features: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The denoising loss of a batch, some features dropped."""
        noisy, times, target = noised(self.prior.scheduler, latents, generator)
        dropped = torch.rand(len(latents), generator=generator) < self.drop
        hint = adapter.hint(features, dropped.to(device()))
        predicted = adapter(self.prior.unet, noisy, times, self.prior.prompts(len(latents)), hint)
        return F.mse_loss(predicted.float(), target)


def seconds_of(step: Callable[[], None], seconds: float) -> float:
    """Mean seconds of a step, over as many as fit, after one to warm up."""
    step()
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        step()
        count += 1
    synchronise()
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    main()
