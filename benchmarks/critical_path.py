"""What work beside the networks' steps costs: reading in training; decoding, writing in sampling.

    python benchmarks/critical_path.py [EXPERIMENT] [--name cpu_of_two_cores]

For each inverted backbone of a finished experiment and its main method's adapter: the share of a
training step that reads its batch from the memory-mapped caches, and the shares of a shard of
samples that decode its latents and write its file, if all is done in turn; and the seconds of
drawing shards whose latents a thread decodes, as is done where a GPU draws, relative to decoding
each in its place, as is done on a CPU. Writes benchmarks/critical_path/NAME.csv.
"""

import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from harness import TRIES, add_experiment, arguments_of, publish, seconds_of

from pipeline.program import device
from pipeline.settings.load import load_settings
from pipeline.settings.methods import AdapterMethod
from pipeline.settings.sections import Settings
from sacd.numerics import numerics
from sacd.prefetch import prefetched
from sacd.sampling.inverter import Inverter
from sacd.shards import Shards, write_shards
from stages.draw_samples import IMAGES_PER_SHARD

SHARDS = 3  # drawn in a row, with decoding in its place and by a thread


def main() -> None:
    parser = arguments_of(__doc__)
    add_experiment(parser)
    arguments = parser.parse_args()
    settings = load_settings(arguments.experiment / "params.yaml")
    method = settings.methods[settings.compare.main_method]
    assert isinstance(method, AdapterMethod)
    table = pd.DataFrame(
        [
            {"backbone": backbone}
            | shares_of_training(arguments.experiment, settings, backbone, method)
            | shares_of_sampling(arguments.experiment, settings, backbone, method)
            for backbone in settings.compare.backbones
        ]
    )
    what = f"a shard of {IMAGES_PER_SHARD} images, {method.samples} samples of each"
    publish(table, what, "critical_path", arguments.name)


def shares_of_training(
    experiment: Path, settings: Settings, backbone: str, method: AdapterMethod
) -> dict[str, float]:
    """A batch's reading against a step of the recorded training."""
    recipe = settings.adapters[method.adapter].training
    latents = Shards(experiment / "latents/train")
    features = Shards(experiment / "features" / backbone / "train")
    rows = torch.randint(len(latents), (recipe.batch,)).tolist()

    def read() -> None:
        latents.read("latents", rows).to(device())
        features.read("features", rows).to(device())

    record = experiment / "adapters" / backbone / method.adapter / "record.json"
    step = pd.read_json(record, typ="series")["training_seconds"] / recipe.steps
    return {"reading_of_training": seconds_of(read) / step}


def shares_of_sampling(
    experiment: Path, settings: Settings, backbone: str, method: AdapterMethod
) -> dict[str, float]:
    """Decoding and writing of a shard's images against all that a shard takes."""
    inverter = Inverter.from_pretrained(
        experiment / "adapters" / backbone / method.adapter, device=str(device())
    )
    stored = Shards(experiment / "features" / backbone / "val")
    ids = stored.ids[:IMAGES_PER_SHARD]
    keys = [(name, sample) for name in ids for sample in range(method.samples)]
    features = stored.read("features", range(len(ids))).repeat_interleave(method.samples, 0)
    latents = torch.randn(len(keys), *Shards(experiment / "latents/val").shape("latents"))

    def draw_latents() -> torch.Tensor:
        return inverter.draw_latents(features, keys, settings.seed, **method.drawing)

    def draw() -> torch.Tensor:
        return inverter.decode(draw_latents())

    def draw_in_turn() -> None:
        for _ in range(SHARDS):
            draw()

    def draw_by_two() -> None:
        tasks = (partial(inverter.decode, draw_latents()) for _ in range(SHARDS))
        for _ in prefetched(tasks):
            pass

    images = draw().unflatten(0, (len(ids), method.samples))
    with tempfile.TemporaryDirectory() as scratch:
        places = (Path(scratch) / str(number) for number in range(TRIES))

        def write() -> None:
            place = next(places)
            write_shards(
                place / "done", place / "work", ids, len(ids), lambda a, b: {"images": images}, {}
            )

        writing = seconds_of(write)
    whole = seconds_of(draw) + writing
    with numerics(device(), "fp32"):  # one attention kernel for both threads
        in_turn, by_two = seconds_of(draw_in_turn), seconds_of(draw_by_two)
    return {
        "decoding_of_sampling": seconds_of(lambda: inverter.decode(latents)) / whole,
        "writing_of_sampling": writing / whole,
        "decoded_by_a_thread": by_two / in_turn,
    }


if __name__ == "__main__":
    main()
