"""Write dvc.yaml: `python workflow/dvc_stages.py` after a change of rules or imports.

A DVC stage is one rule (for one backbone, adapter, method or probe), and its command is a Snakemake
target, so there is one definition of how a thing is made. What this file adds is what DVC must
know: inputs, outputs, sections of params.yaml, and the modules that the stage imports. The tests
compare the outcome with Snakemake's own graph.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.code import code_files  # noqa: E402

HEADER = """\
# Written by `python workflow/dvc_stages.py`; the same file serves every experiment, by a link.
# Each stage makes its Snakemake target. `root` stands in params.yaml.
"""
HEAVY = (".pdf", ".html")
# Most of an experiment's bytes, and made again from images and models in little time.
NOT_STORED = ("features", "latents")
B, A, D = "${item.backbone}", "${item.adapter}", "${item.decoder}"
M, P, S, X = "${item.method}", "${item.probe}", "${item.sweep}", "${item.disturbance}"
L, C, R, E = "${item.layers}", "${item.concepts}", "${item.readout}", "${item.edit}"
BACKBONES = {"backbone": "${compare.backbones}"}

# rule: (file, loop, target, dependencies, outputs, parameters)
STAGES: dict[str, tuple[str, dict[str, str], str, list[str], list[str], list[str]]] = {
    "prepare_images": (
        "images", {}, "data/record.json", [], ["data"], ["seed", "images"],
    ),
    "make_backbone": (
        "models", {"backbone": "${compare.networks}"}, f"models/backbones/{B}/record.json",
        ["data", "${root}/pretrained"], [f"models/backbones/{B}"], ["seed", f"backbones.{B}"],
    ),
    "make_autoencoder": (
        "models", {}, "models/autoencoder/record.json",
        ["data", "${root}/pretrained"], ["models/autoencoder"],
        ["seed", "prior.source", "prior.autoencoder"],
    ),
    "make_prior": (
        "models", {}, "models/prior/record.json",
        ["data", "models/autoencoder", "latents", "${root}/pretrained"], ["models/prior"],
        ["seed", "prior.source", "prior.unet"],
    ),
    "make_probe": (
        "models", {"probe": "${compare.probes}"}, f"models/probes/{P}/record.json",
        ["data", "${root}/pretrained"], [f"models/probes/{P}"], ["seed", f"probes.{P}"],
    ),
    "cache_latents": (
        "caches", {}, "latents/record.json", ["data", "models/autoencoder"],
        ["latents/train", "latents/val", "latents/test", "latents/round_trip",
         "latents/record.json"], [],
    ),
    "cache_features": (
        "caches", {"backbone": "${compare.networks}"}, f"features/{B}/record.json",
        ["data", f"models/backbones/{B}"],
        [f"features/{B}/{name}" for name in ("train", "val", "test", "record.json")], [],
    ),
    "train_adapter": (
        "adapters", BACKBONES | {"adapter": "${compare.adapters}"}, f"adapters/{B}/{A}/record.json",
        ["data", "latents", f"features/{B}", "models/prior"], [f"adapters/{B}/{A}"],
        ["seed", f"adapters.{A}"],
    ),
    "train_decoder": (
        "adapters", BACKBONES | {"decoder": "${compare.decoders}"}, f"decoders/{B}/{D}/record.json",
        ["data", f"features/{B}", f"models/backbones/{B}"], [f"decoders/{B}/{D}"],
        ["seed", f"decoders.{D}"],
    ),
    # All that any method needs: DVC cannot choose by the method's type.
    "draw_samples": (
        "samples", BACKBONES | {"method": "${compare.methods}"}, f"samples/{B}/{M}/record.json",
        [f"adapters/{B}", f"decoders/{B}", f"features/{B}", "data", f"models/backbones/{B}",
         "models/prior"],
        [f"samples/{B}/{M}"], ["seed", f"methods.{M}"],
    ),
    "score_samples": (
        "samples", BACKBONES | {"method": "${compare.methods}"}, f"scores/{B}/{M}.record.json",
        [f"samples/{B}/{M}", "data", f"features/{B}", "features/${compare.judge}",
         f"models/backbones/{B}", "models/backbones/${compare.judge}", "models/probes"],
        [f"scores/{B}/{M}{end}" for end in (".parquet", ".sets.json", ".record.json")],
        ["seed", "compare.judge", "compare.probes"],
    ),
    "sweep_method": (
        "samples", {"sweep": "${compare.sweeps}"}, f"results/sweeps/{S}.record.json",
        ["data", "features", "models/backbones", "models/probes", "models/prior", "adapters",
         "decoders"],
        [f"results/sweeps/{S}{end}" for end in (".csv", ".png", ".pdf", ".record.json")],
        ["seed", f"sweeps.{S}", "methods", "compare.backbones", "compare.judge", "compare.probes"],
    ),
    "measure_robustness": (
        "robustness", BACKBONES | {"disturbance": "${compare.disturbances}"},
        f"robustness/{B}/{X}/record.json",
        ["data", f"features/{B}", f"models/backbones/{B}", "models/backbones/${compare.judge}",
         "models/prior", f"adapters/{B}", f"decoders/{B}"],
        [f"robustness/{B}/{X}"],
        ["seed", "images", f"disturbances.{X}", "methods", "compare.judge"],
    ),
    "plot_robustness": (
        "robustness", {"disturbance": "${compare.disturbances}"},
        f"results/robustness/{X}.record.json", ["robustness"],
        [f"results/robustness/{X}{end}"
         for end in (".csv", ".png", ".pdf", "_examples.png", "_examples.pdf", ".record.json")],
        ["seed", f"disturbances.{X}", "methods", "compare.backbones"],
    ),
    "score_references": (
        "samples", BACKBONES, f"scores/{B}/references.record.json",
        [f"samples/{B}/${{compare.main_method}}", "data", "latents", f"features/{B}",
         "features/${compare.judge}", f"models/backbones/{B}", "models/backbones/${compare.judge}",
         "models/probes"],
        [f"scores/{B}/references{end}" for end in (".parquet", ".sets.json", ".record.json")],
        ["seed", "compare.judge", "compare.probes", "compare.main_method"],
    ),
    "make_tables": (
        "results", {}, "results/tables/record.json",
        ["samples", "scores", "adapters", "decoders"],
        ["results/tables"], ["seed", "compare"],
    ),
    "plot_figures": (
        "results", {}, "results/figures/record.json",
        ["samples", "scores", "adapters", "results/tables", "data", "latents"],
        [f"results/figures/{name}.{kind}"
         for name in ("reconstructions", "scores", "tradeoffs", "training")
         for kind in ("png", "pdf")] + ["results/figures/record.json"],
        ["compare"],
    ),
    "plot_layers": (
        "results", {"layers": "${compare.layers}"}, f"results/layers/{L}.record.json",
        ["samples", "results/tables", "data"],
        [f"results/layers/{L}{end}" for end in (".png", ".pdf", ".record.json")],
        [f"layers.{L}", "compare.main_method"],
    ),
    "find_concepts": (
        "concepts", BACKBONES | {"concepts": "${compare.concepts}"},
        f"concepts/{B}/{C}/record.json",
        ["data", f"features/{B}", f"models/backbones/{B}"], [f"concepts/{B}/{C}"],
        ["seed", "images", f"concepts.{C}"],
    ),
    "plot_concepts": (
        "concepts", {"concepts": "${compare.concepts}"}, f"results/concepts/{C}.record.json",
        ["concepts"],
        [f"results/concepts/{C}{end}" for end in (".csv", ".png", ".pdf", ".record.json")],
        [f"concepts.{C}", "compare.backbones"],
    ),
    "fit_readout": (
        "edits", {"readout": "${compare.readouts}"}, f"models/readouts/{R}/record.json",
        ["data", "features/${compare.judge}", "models/probes"], [f"models/readouts/{R}"],
        ["seed", f"readouts.{R}", "compare.judge", "compare.probes"],
    ),
    "draw_edits": (
        "edits", BACKBONES | {"edit": "${compare.edits}"}, f"edits/{B}/{E}/record.json",
        ["data", f"features/{B}", "features/${compare.judge}", f"models/backbones/{B}",
         "models/backbones/${compare.judge}", "models/probes", "models/readouts", "models/prior",
         f"adapters/{B}", f"decoders/{B}", f"concepts/{B}"],
        [f"edits/{B}/{E}"],
        ["seed", "images", f"edits.{E}", "concepts", "methods", "compare.judge", "compare.probes",
         "compare.readouts"],
    ),
    "plot_edits": (
        "edits", {"edit": "${compare.edits}"}, f"results/edits/{E}.record.json", ["edits"],
        [f"results/edits/{E}{end}"
         for end in (".csv", ".md", ".png", ".pdf", "_examples.png", "_examples.pdf",
                     ".record.json")],
        ["seed", f"edits.{E}", "compare.backbones"],
    ),
    "plot_disentanglement": (
        "edits", {"edit": "${compare.disentangled}"}, f"results/disentanglement/{E}.record.json",
        ["edits", "models/readouts"],
        [f"results/disentanglement/{E}{end}" for end in (".csv", ".png", ".pdf", ".record.json")],
        ["seed", f"edits.{E}", "concepts", "compare.backbones", "compare.readouts"],
    ),
    "plot_prior": (
        "results", {}, "results/figures/prior_samples.record.json",
        ["models/prior", "data"],
        [f"results/figures/prior_samples{end}" for end in (".png", ".pdf", ".record.json")],
        ["seed"],
    ),
    "write_report": (
        "results", {}, "results/report.html",
        ["results/tables", "results/figures", "results/sweeps", "results/robustness",
         "results/layers", "results/concepts", "results/edits", "results/disentanglement",
         "${root}/workflow/report"],
        ["results/report.html"], ["compare"],
    ),
}  # fmt: skip


def main() -> None:
    stages = {name: _stage(name) for name in STAGES}
    text = yaml.safe_dump({"stages": stages}, sort_keys=False, width=1000)
    (ROOT / "dvc.yaml").write_text(HEADER + text)


def _stage(name: str) -> dict[str, Any]:
    file, loop, target, dependencies, outputs, parameters = STAGES[name]
    code = [f"${{root}}/workflow/rules/{file}.smk"]
    code += [f"${{root}}/{path.as_posix()}" for path in code_files(f"stages.{name}")]
    stage: dict[str, Any] = {"matrix": loop} if loop else {}
    stage["cmd"] = f"snakemake {target} --snakefile ${{root}}/Snakefile"
    stage["deps"] = dependencies + code
    if parameters:
        stage["params"] = parameters
    stage["outs"] = [_output(path) for path in outputs]
    return stage


def _output(path: str) -> str | dict[str, dict[str, bool]]:
    """Tables and pictures belong to git, everything else lies in DVC's cache."""
    if path.startswith("results") and not path.endswith(HEAVY):
        return {path: {"cache": False}}
    if path.startswith(NOT_STORED) and not path.endswith("record.json"):
        return {path: {"push": False}}
    return path


if __name__ == "__main__":
    main()
