"""What makes a result stale: the version of its stage's behaviour, and its part of params.yaml.

Both Snakemake and DVC depend on these, and on no code. A version is a number in
workflow/versions.json; `python workflow/versions.py` raises it where edited code, or another
release of a library, gives other results.
"""

from functools import cache
from typing import Any

from pipeline.artefacts import ROOT
from pipeline.settings.load import section
from pipeline.settings.sections import Settings
from sacd.files import read_json

VERSIONS = ROOT / "workflow/versions.json"

# By stage, the parts of params.yaml that decide its result; braces hold what a job is named by.
PARTS: dict[str, tuple[str, ...]] = {
    "prepare_images": ("seed", "images"),
    "make_backbone": ("seed", "backbones.{backbone}"),
    "make_autoencoder": ("seed", "prior.source", "prior.autoencoder"),
    "make_prior": ("seed", "prior.source", "prior.unet"),
    "make_segmenter": ("seed", "segmenters.{segmenter}"),
    "cache_latents": (),
    "cache_features": (),
    "train_adapter": ("seed", "adapters.{adapter}"),
    "train_decoder": ("seed", "decoders.{decoder}"),
    "draw_samples": ("seed", "methods.{method}"),
    "score_samples": ("seed", "compare.judge", "compare.segmenters"),
    "score_references": ("seed", "compare.judge", "compare.segmenters", "compare.main_method"),
    "sweep_method": (
        "seed", "sweeps.{sweep}", "methods", "compare.backbones", "compare.judge",
        "compare.segmenters",
    ),
    "measure_robustness": (
        "seed", "images", "disturbances.{disturbance}", "methods", "compare.judge",
    ),
    "plot_robustness": ("seed", "disturbances.{disturbance}", "methods", "compare.backbones"),
    "find_concepts": ("seed", "images", "concepts.{concepts}"),
    "plot_concepts": ("concepts.{concepts}", "compare.backbones"),
    "fit_probe": ("seed", "probes.{probe}", "compare.judge", "compare.segmenters"),
    "draw_edits": (
        "seed", "images", "edits.{edit}", "concepts", "methods", "compare.judge",
        "compare.segmenters", "compare.probes",
    ),
    "plot_edits": ("seed", "edits.{edit}", "compare.backbones"),
    "plot_disentanglement": (
        "seed", "edits.{edit}", "concepts", "compare.backbones", "compare.probes",
    ),
    "make_tables": ("seed", "compare"),
    "plot_figures": ("compare",),
    "plot_layers": ("layers.{layers}", "compare.main_method"),
    "plot_prior": ("seed",),
    "write_report": ("compare",),
}  # fmt: skip


def parts(stage: str, settings: Settings, **names: str) -> dict[str, Any]:
    """The parts of the settings behind a job's result, as plain values by their dotted paths."""
    paths = [part.format(**names) for part in PARTS[stage]]
    return {path: section(settings, path) for path in paths}


@cache
def version_of(stage: str) -> int:
    """The version of a stage's behaviour."""
    return read_json(VERSIONS)["stages"][stage]["version"]
