"""What compiling the U-Net and the ControlNet gains: sampling, and a step of training.

    python benchmarks/compiled.py [EXPERIMENT] [--images 40] [--name cpu_of_two_cores]

For the first inverted backbone of a finished experiment and its main method, without energy
guidance: that hooks into the U-Net's attention, and a compiled network passes over hooks that come
later. On a CPU the compiler calls a C++ compiler, which nothing else here needs. Writes
benchmarks/compiled/NAME.csv.
"""

import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from harness import add_experiment, arguments_of, publish, seconds_of, synchronise

from sacd.metrics.features import feature_scores
from sacd.numerics import numerics
from sacd.prior.diffusion import noised
from sacd.sampling.inverter import Inverter
from sacd.shards import Shards
from stages.common import device
from stages.inputs import spread_rows
from stages.method_sections import AdapterMethod
from stages.settings import load_settings


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    experiment, settings = arguments.experiment, load_settings(arguments.experiment / "params.yaml")
    method = settings.methods[settings.compare.main_method]
    assert isinstance(method, AdapterMethod)
    backbone = settings.compare.backbones[0]
    inverter = Inverter.from_pretrained(
        experiment / "adapters" / backbone / method.adapter, device=str(device())
    )
    stored = Shards(experiment / "features" / backbone / "val")
    rows = spread_rows(stored, arguments.images)
    features = stored.read("features", rows).float()
    keys = [(stored.ids[row], 0) for row in rows]

    def sample() -> torch.Tensor:
        drawing = method.drawing | {"energy_guidance": 0.0, "refinement": None}
        return inverter.sample(features, keys, settings.seed, **drawing)

    batch = settings.adapters[method.adapter].training.batch
    latents = Shards(experiment / "latents/train").read("latents", range(batch))
    train_features = Shards(experiment / "features" / backbone / "train")
    step = step_of(inverter, latents, train_features.read("features", range(batch)))
    works = {"sampling": sample, "training step": step}

    def cosine() -> float:
        seen = inverter.features(sample()).cpu()
        return float(feature_scores(seen, features)["cos_median"].mean())

    eager, before = {name: timed(work) for name, work in works.items()}, cosine()
    inverter.prior.unet.compile(dynamic=False)
    inverter.adapter.control.compile(dynamic=False)
    compiled, after = {name: timed(work) for name, work in works.items()}, cosine()
    table = pd.DataFrame([row(name, eager[name], compiled[name]) for name in works])
    table["cos_median_eager"], table["cos_median_compiled"] = before, after
    publish(table, f"{backbone}, {arguments.images} images", "compiled", arguments.name)


def step_of(
    inverter: Inverter, latents: torch.Tensor, features: torch.Tensor
) -> Callable[[], object]:
    """A training step of the adapter without the optimizer's: forward and backward."""
    adapter, prior = inverter.adapter, inverter.prior
    latents, features = latents.float().to(device()), features.float().to(device())
    prompts = prior.prompts(len(latents))
    adapter.requires_grad_(True)

    def step() -> None:
        generator = torch.Generator().manual_seed(0)
        noisy, times, target = noised(prior.scheduler, latents, generator)
        with numerics(device(), "bf16"):
            hint = adapter.hint(features)
            predicted = adapter(prior.unet, noisy, times, prompts, hint)
        F.mse_loss(predicted.float(), target).backward()
        adapter.zero_grad(set_to_none=True)

    return step


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the first call, in which networks are compiled, and of a later one."""
    started = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - started, seconds_of(work)


def row(name: str, eager: tuple[float, float], compiled: tuple[float, float]) -> dict[str, Any]:
    return {
        "work": name,
        "seconds_eager": eager[1],
        "seconds_compiled": compiled[1],
        "speed_vs_eager": eager[1] / compiled[1],
        "seconds_to_compile": compiled[0] - compiled[1],
    }


if __name__ == "__main__":
    main()
