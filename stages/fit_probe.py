"""Learn to read true factors off the judge's features: models/probes/<probe>/.

probe.safetensors holds a linear classifier of each factor, and accuracy.json how often it is
right on images that it was not learnt from, balanced over kinds, beside what chance would be.
"""

import argparse

from torch import Tensor

from pipeline.artefacts import backbone_folder, feature_folder, probe_folder
from pipeline.eyes import load_segmenter, read_parts
from pipeline.inputs import open_images, stratified_rows
from pipeline.program import progress, run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from sacd.backbones.backbone import WEIGHTS
from sacd.concepts.labels import kinds_of
from sacd.concepts.probe import Probe, fit_factor
from sacd.errors import SacdError, unknown_name
from sacd.files import atomic, write_json
from sacd.shards import Shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probe", required=True)
    name = parser.parse_args().probe
    recorder, settings = Recorder("fit_probe", probe=name), load_settings()
    chosen = pick(settings.probes, name, "probe")
    shards, manifest = open_images("train")
    cached = Shards(feature_folder(settings.compare.judge, "train"))
    cached.require_ids(shards.ids, str(shards.folder))
    rows = stratified_rows(shards, chosen.images)
    segmenter = load_segmenter(settings)
    values = read_parts(cached.read("features", rows), shards.read("images", rows), segmenter)
    kinds: dict[str, tuple[str, ...]] = {}
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    accuracy: dict[str, dict[str, float]] = {}
    for number in progress("factors")(iter(range(len(chosen.columns))), len(chosen.columns)):
        column, where = chosen.columns[number], f"probes.{name}.columns"
        if column not in manifest:
            raise unknown_name("column of the manifest", column, manifest.columns, where)
        told = kinds_of(manifest[column].iloc[rows])
        try:
            weights, biases, right = fit_factor(values, told, settings.seed)
        except SacdError as error:
            raise SacdError(f"{where}: '{column}': {error}") from error
        kinds[column], layers[column] = tuple(told), (weights, biases)
        accuracy[column] = {"accuracy": round(right, 4), "chance": round(1 / len(told), 4)}
    folder = probe_folder(name)
    with atomic(folder) as temporary:
        temporary.mkdir()
        Probe(kinds, layers).save(temporary / "probe.safetensors")
        write_json(temporary / "accuracy.json", accuracy)
    recorder.write(
        folder / "record.json",
        settings,
        made_of=[backbone_folder(settings.compare.judge) / WEIGHTS],
    )


if __name__ == "__main__":
    run(main)
