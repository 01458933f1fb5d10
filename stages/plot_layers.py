"""Compare layers of one network, shallow to deep: results/layers/<name>.{png,pdf}."""

import argparse

import numpy as np

from pipeline.artefacts import layers_file, sample_folder
from pipeline.inputs import open_images, rows_over_classes
from pipeline.program import run
from pipeline.record import Recorder
from pipeline.settings.load import load_settings, pick
from pipeline.tabular import read_table
from sacd.figures.layers import plot_layers
from sacd.figures.style import rgb, save_figure
from sacd.shards import Shards

IMAGES_SHOWN = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", required=True)
    name = parser.parse_args().layers
    recorder, settings = Recorder("plot_layers", layers=name), load_settings()
    backbones = pick(settings.layers, name, "comparison of layers")
    method = settings.compare.main_method
    test, manifest = open_images("test")
    drawn = {backbone: Shards(sample_folder(backbone, method)) for backbone in backbones}
    for samples in drawn.values():
        samples.require_ids(test.ids, "the test split")
    strips: list[dict[str, np.ndarray]] = [
        {"original": rgb(test.read("images", [row])[0])}
        | {
            backbone: rgb(samples.read("images", [row])[0, 0])
            for backbone, samples in drawn.items()
        }
        for row in rows_over_classes(manifest, IMAGES_SHOWN)
    ]
    table = read_table("main")
    path = layers_file(name)
    save_figure(plot_layers(table, backbones, method, strips), path.with_suffix(""))
    recorder.write(path.with_suffix(".record.json"), settings)


if __name__ == "__main__":
    run(main)
