"""Measure how many operations a second an experiment's networks get from this machine.

    python benchmarks/rates.py experiments/imagenet [--batch 64] [--seconds 10]

Random weights serve as well as trained ones. Each kind of work is timed in the pipeline's own
precision and layout, and stands beside the rate of a large matrix product in the same run: the
share of the machine's limit that it gets. What is printed is also written to
benchmarks/rates/NAME.json, where `make plan` finds it.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import synchronise

from pipeline.architecture import random_adapter, random_backbone, random_prior
from pipeline.costs import operations
from pipeline.program import device
from pipeline.record import device_name
from pipeline.settings.load import load_settings
from sacd.files import write_json
from sacd.numerics import conv_format, multiplies_bf16, numerics
from sacd.prior.prior import latent_shape
from sacd.prior.vae import decode, encode
from workflow.plan import RATES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--seconds", type=float, default=10, help="to measure each kind")
    parser.add_argument("--name", default=platform.machine(), help="of the file that is written")
    arguments = parser.parse_args()
    settings = load_settings(arguments.experiment / "params.yaml")
    calls = kinds_of_work(settings, arguments.batch)
    limit = rate(matrix_product(), arguments.seconds)
    print(f"{device_name()}, batch {arguments.batch}")
    print(f"{'matrix product':<16} {limit / 1e12:8.3f} TFLOP/s")
    rates = {}
    for kind, call in calls.items():
        rates[kind] = rate(call, arguments.seconds)
        share = rates[kind] / limit
        print(f"{kind:<16} {rates[kind] / 1e12:8.3f} TFLOP/s  {share:4.0%} of the matrix product's")
    write_json(
        RATES / f"{arguments.name}.json",
        {
            "device": device_name(),
            "networks": f"those of {arguments.experiment}, {arguments.batch} images at a time",
            "matrix_product": limit,
            "rates": rates,
        },
    )


def kinds_of_work(settings: Any, batch: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by the kinds of `pipeline.costs`: with the first backbone and adapter."""
    here, layout = device(), conv_format(device())
    backbone = random_backbone(settings.backbones[settings.compare.backbones[0]])
    backbone.to(here, memory_format=layout)
    prior = random_prior(settings)[0].to(here)
    size = settings.images.size
    images = torch.rand(batch, 3, size, size, device=here)
    latents = torch.randn(batch, *latent_shape(prior, size), device=here)
    with torch.no_grad():
        features, _ = backbone(images)
    chosen = settings.adapters[settings.compare.adapters[0]]
    adapter = random_adapter(chosen, prior, features, latents.shape[-1])
    adapter.to(here, memory_format=layout)
    times = torch.full((batch,), 500, device=here)

    def step() -> torch.Tensor:
        return adapter(prior.unet, latents, times, prior.prompts(batch), adapter.hint(features))

    def train() -> None:
        with numerics(here, chosen.training.precision):
            loss = F.mse_loss(step().float(), latents)
        loss.backward()
        adapter.zero_grad(set_to_none=True)

    def frozen(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            with torch.no_grad(), numerics(here, "bf16"):
                call()

        return run

    return {
        "network": frozen(lambda: backbone(images)),
        "autoencoder": frozen(lambda: (encode(prior.vae, images), decode(prior.vae, latents))),
        "sampling": frozen(step),
        "training": train,
    }


def matrix_product(side: int = 4096) -> Callable[[], Any]:
    """A product of two large matrices in the faster precision: what the machine can do."""
    here = device()
    kind = torch.bfloat16 if multiplies_bf16(here) else torch.float32
    left, right = (torch.randn(side, side, device=here, dtype=kind) for _ in range(2))
    return lambda: left @ right


def rate(call: Callable[[], Any], seconds: float) -> float:
    """Operations a second, by the fastest of the calls that fit into `seconds` (two at least)."""
    count = operations(call)  # warms up, too
    fastest, end = float("inf"), time.perf_counter() + seconds
    calls = 0
    while calls < 2 or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        synchronise()
        fastest = min(fastest, time.perf_counter() - started)
        calls += 1
    return count / fastest


if __name__ == "__main__":
    main()
