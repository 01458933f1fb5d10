"""What compiling the U-Net and the ControlNet gains: sampling, and a step of training.

    python benchmarks/compiled.py [EXPERIMENT] [--images 40] [--name cpu_of_two_cores]

For the first inverted backbone and the first adapter of a finished experiment, without energy
guidance, whose pass is never a compiled one. On a CPU this needs a C++ compiler, as nothing else
here does. Writes benchmarks/compiled/NAME.csv.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from harness import add_experiment, arguments_of, elapsed, publish
from sampling import by_us, measure, open_cases
from training import Subject

from pipeline.program import device
from sacd.adapters.adapter import Adapter, compile_steps
from sacd.numerics import numerics

DRAWN = {"steps": 8, "guidance": 5.0, "energy_guidance": 0.0}
ROUNDS = 20


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    rows, works = [], {}
    for way in ("eager", "compiled"):
        case = next(open_cases(arguments.experiment, arguments.images))
        subject = Subject(arguments.experiment)
        adapter = subject.adapter().requires_grad_(True)
        if way == "compiled":
            compile_steps(case.inverter.prior.unet, case.inverter.adapter)
            compile_steps(subject.prior.unet, adapter)
        draw = partial(by_us, case, DRAWN)
        cosine = measure(case, way, DRAWN, draw)["cos_median"]
        rows += [
            {"work": "sampling", "way": way, "cos_median": cosine},
            {"work": "training step", "way": way},
        ]
        works["sampling", way] = draw
        works["training step", way] = step_of(subject, adapter)
    table = pd.DataFrame(rows).sort_values("work", kind="stable")
    seconds = fastest_in_turn(works)
    table["seconds"] = [seconds[key] for key in zip(table.work, table.way, strict=True)]
    eager = [seconds[work, "eager"] for work in table.work]
    table["speed_vs_eager"] = eager / table.seconds
    publish(table, f"{case.backbone}, {arguments.images} images", "compiled", arguments.name)


def step_of(subject: Subject, adapter: Adapter) -> Callable[[], None]:
    """A step of the adapter's training without the optimizer's: forward and backward."""
    latents, features = subject.batch(subject.recipe.batch)

    def step() -> None:
        with numerics(device(), "bf16"):
            loss = subject.loss(adapter, latents, features, torch.Generator().manual_seed(0))
        loss.backward()
        adapter.zero_grad(set_to_none=True)

    return step


def fastest_in_turn(works: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Wall seconds of each work, the fastest of `ROUNDS` in which all take turns.

    So a while in which the machine is slower falls on all of them. A first call, in which networks
    are compiled, does not count.
    """
    fastest = dict.fromkeys(works, float("inf"))
    for turn in range(ROUNDS + 1):
        for key, work in works.items():
            seconds = elapsed(work)
            if turn:
                fastest[key] = min(fastest[key], seconds)
    return fastest


if __name__ == "__main__":
    main()
