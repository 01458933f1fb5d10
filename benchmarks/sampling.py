"""Compare ways to sample with a trained adapter: feature cosine and seconds an image, in one run.

    python benchmarks/sampling.py [EXPERIMENT] [--images 40] [--name cpu_of_two_cores]

On validation images of a finished experiment, for each inverted backbone, one sample an image:

- `published`: as in FeatInv (arXiv 2505.21032) written with diffusers: one image at a time, DDIM,
  50 steps, scale 1.75, guidance by two passes, fp32;
- `diffusers`: its best practice: the same by bf16 (where the device has it), in batches, both
  passes in one;
- `sacd`: ours, over steps, both guidances and trained adapters; guided below 65 % of the timesteps.

Writes benchmarks/sampling/NAME.csv, and the frontier of the fastest at each cosine as NAME.png.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from harness import add_experiment, arguments_of, publish, synchronise
from torch import Tensor

from pipeline.inputs import stratified_rows
from pipeline.program import device, progress
from pipeline.record import device_name
from pipeline.settings.load import load_settings
from sacd.metrics.features import feature_scores
from sacd.numerics import numerics
from sacd.prior.latents import decode_latents
from sacd.prior.prior import Prior
from sacd.prior.process import Flow
from sacd.sampling.inverter import Inverter
from sacd.sampling.noise import initial_noise
from sacd.shards import Shards

STEPS, GUIDANCES, ENERGY_GUIDANCES = (2, 4, 8, 12, 20), (1.0, 2.0, 5.0), (0.0, 0.5, 1.0)
GUIDANCE_INTERVAL = (0.0, 0.65)
LEAST_GAIN = 0.005  # of cosine, to be on the frontier
PUBLISHED: dict[str, Any] = {"steps": 50, "guidance": 1.75, "energy_guidance": 0.0}


@dataclass(frozen=True)
class Case:
    """One backbone's validation images, and what draws from their features."""

    backbone: str
    adapter: str
    inverter: Inverter
    ids: list[str]
    features: Tensor
    seed: int


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    cases = list(open_cases(arguments.experiment, arguments.images))
    rows = [row for case in cases for row in compare(case)]
    table = with_ratios(pd.DataFrame(rows))
    folder = publish(table, f"{arguments.images} images", "sampling", arguments.name)
    draw_frontier(table, folder / f"{arguments.name}.png", device_name())


def open_cases(experiment: Path, count: int) -> Iterator[Case]:
    """Every inverted backbone with every adapter that is given maps."""
    settings = load_settings(experiment / "params.yaml")
    for backbone, name in product(settings.compare.backbones, settings.compare.adapters):
        if settings.adapters[name].conditioning != "spatial":
            continue
        folder = experiment / "adapters" / backbone / name
        stored = Shards(experiment / "features" / backbone / "val")
        rows = stratified_rows(stored, count)
        yield Case(
            backbone,
            name,
            Inverter.from_pretrained(folder, device=str(device())),
            [stored.ids[row] for row in rows],
            stored.read("features", rows).float(),
            settings.seed,
        )


def compare(case: Case) -> Iterator[dict[str, Any]]:
    """A row for each way to sample."""
    for way, best_practice in (("published", False), ("diffusers", True)):
        yield measure(case, way, PUBLISHED, partial(by_diffusers, case, best_practice))
    grid = [
        dict(zip(PUBLISHED, values, strict=True))
        for values in product(STEPS, GUIDANCES, ENERGY_GUIDANCES)
    ]
    for number in progress(f"{case.backbone} {case.adapter}")(iter(range(len(grid))), len(grid)):
        yield measure(case, "sacd", grid[number], partial(by_us, case, grid[number]))


def measure(
    case: Case, way: str, chosen: dict[str, Any], draw: Callable[[], Tensor]
) -> dict[str, Any]:
    """A row: mean `cos_median` of the images to the features, and seconds an image."""
    started = time.perf_counter()
    images = draw()
    synchronise()
    seconds = (time.perf_counter() - started) / len(case.ids)
    seen = case.inverter.features(images).cpu()
    cosine = float(feature_scores(seen, case.features)["cos_median"].mean())
    return {
        "backbone": case.backbone, "adapter": case.adapter, "way": way, **chosen,
        "cos_median": cosine, "seconds_per_image": seconds,
    }  # fmt: skip


def by_us(case: Case, chosen: dict[str, Any]) -> Tensor:
    keys = [(name, 0) for name in case.ids]
    return case.inverter.sample(
        case.features, keys, case.seed, guidance_interval=GUIDANCE_INTERVAL, **chosen
    )


@torch.no_grad()
def by_diffusers(case: Case, best_practice: bool) -> Tensor:
    """DDIM with classifier-free guidance at every step, as diffusers' ControlNet pipeline does it.

    With the best practice all images go through together, both passes in one; else one by one.
    """
    prior, adapter = case.inverter.prior, case.inverter.adapter
    scheduler = solver_of_diffusers(prior)
    shape = (prior.vae.config.latent_channels, *adapter.config.grid)
    noise = initial_noise(case.seed, [(name, 0) for name in case.ids], shape).to(device())
    features = case.features.to(device())

    def predict(latents: Tensor, time_step: Tensor, hint: tuple[Tensor, ...]) -> Tensor:
        times, prompts = time_step.expand(len(latents)), prior.prompts(len(latents))
        return adapter(prior.unet, latents, times, prompts, hint).float()

    drawn = []
    size = len(noise) if best_practice else 1
    with numerics(device(), "bf16" if best_practice else "fp32"):
        for block, given in zip(noise.split(size), features.split(size), strict=True):
            scheduler.set_timesteps(PUBLISHED["steps"], device=device())
            hints = (adapter.null_hint(len(block)), adapter.hint(given))
            both = tuple(torch.cat(pair) for pair in zip(*hints, strict=True))
            latents = block
            for step in scheduler.timesteps:
                if best_practice:
                    null, true = predict(torch.cat([latents, latents]), step, both).chunk(2)
                else:
                    null, true = (predict(latents, step, hint) for hint in hints)
                guided = null + PUBLISHED["guidance"] * (true - null)
                latents = scheduler.step(guided, step, latents).prev_sample
            drawn.append(decode_latents(prior.vae, latents, device()))
    return torch.cat(drawn)


def solver_of_diffusers(prior: Prior) -> SchedulerMixin:
    """DDIM; of a rectified flow, its Euler steps, which are DDIM there."""
    if isinstance(prior.process, Flow):
        return FlowMatchEulerDiscreteScheduler.from_config(prior.scheduler.config)
    return DDIMScheduler.from_config(
        prior.scheduler.config, clip_sample=False, set_alpha_to_one=True
    )


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """How many times as fast as `published` and `diffusers` each row is, and what it keeps.

    `of_20_steps`: its cosine as a share of that of 20 of our steps with the same guidances.
    """
    keys = ["backbone", "adapter"]
    for rival in ("published", "diffusers"):
        seconds = table[table.way == rival].set_index(keys).seconds_per_image
        table[f"speed_vs_{rival}"] = [
            seconds.loc[tuple(entry)] / own
            for *entry, own in table[[*keys, "seconds_per_image"]].itertuples(index=False)
        ]
    whole = table[(table.way == "sacd") & (table.steps == max(STEPS))]
    kinds = ["guidance", "energy_guidance"]
    cosines = whole.set_index([*keys, *kinds]).cos_median
    table["of_20_steps"] = [
        entry.cos_median / cosines.loc[tuple(getattr(entry, key) for key in (*keys, *kinds))]
        if entry.way == "sacd"
        else float("nan")
        for entry in table.itertuples()
    ]
    return table


def draw_frontier(table: pd.DataFrame, path: Path, machine: str) -> None:
    """Cosine against seconds an image; a line through those that nothing faster comes near."""
    names = table.backbone.unique()
    figure, axes = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        part = table[table.backbone == name].sort_values("seconds_per_image")
        before = part.cos_median.cummax().shift(fill_value=-1.0)
        best = part[part.cos_median > before + LEAST_GAIN]
        axis.plot(best.seconds_per_image, best.cos_median, color="0.7", zorder=0)
        for (way, adapter), group in part.groupby(["way", "adapter"]):
            axis.scatter(group.seconds_per_image, group.cos_median, label=f"{way}, {adapter}", s=22)
        for entry in best[best.way == "sacd"].itertuples():
            axis.annotate(  # up to the left of a frontier there is nothing
                f"{entry.steps} steps, {entry.guidance:g}, {entry.energy_guidance:g}",
                (entry.seconds_per_image, entry.cos_median),
                xytext=(-3, 3), textcoords="offset points", fontsize=6.5, ha="right",
            )  # fmt: skip
        axis.set(xscale="log", xlabel="seconds an image", ylabel="cos_median", title=name)
        axis.set_xlim(part.seconds_per_image.min() / 4, part.seconds_per_image.max() * 2)
        axis.margins(y=0.1)
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"Sampling on {machine}\nsteps, guidance and energy guidance of the frontier", fontsize=10
    )
    figure.tight_layout()
    figure.legend(*axes[0][0].get_legend_handles_labels(), fontsize=7, ncols=2 * len(names),
                  loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False)  # fmt: skip
    figure.savefig(path, dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
