"""Write an experiment's dvc.yaml: `python workflow/dvc_stages.py [FOLDER ...]`, by default all.

A DVC stage is one rule (for one backbone, adapter, method or probe), and its command is a Snakemake
target, so there is one definition of how a thing is made. What this file adds is what DVC must
know: inputs, outputs, and parts of params.yaml. The tests compare the outcome with Snakemake's own
graph.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.settings.load import read_settings  # noqa: E402
from pipeline.settings.sections import Compare  # noqa: E402
from pipeline.versions import PARTS  # noqa: E402
from sacd.errors import SacdError  # noqa: E402

HEADER = """\
# Written by `python workflow/dvc_stages.py` from params.yaml: run it again where names in there
# come or go. Each stage makes its Snakemake target.
"""
HEAVY = (".pdf", ".html")
# Most of an experiment's bytes, and made again from images and models in little time.
NOT_STORED = ("features", "latents")
FIGURES = ("reconstructions", "scores", "tradeoffs", "training")
B, A, D = "${item.backbone}", "${item.adapter}", "${item.decoder}"
M, P, S, X = "${item.method}", "${item.segmenter}", "${item.sweep}", "${item.disturbance}"
L, C, R, E = "${item.layers}", "${item.concepts}", "${item.probe}", "${item.edit}"


@dataclass(frozen=True)
class Stage:
    """A rule's `target`, what it needs and makes, and the names `over` which it is repeated."""

    target: str
    needs: list[str]
    makes: list[str]
    over: dict[str, list[str]] = field(default_factory=dict)


def stages_of(compare: Compare, root: str) -> dict[str, Stage]:
    """The stages of an experiment, by rule."""
    networks, backbones = {"backbone": compare.networks}, {"backbone": compare.backbones}
    pretrained = f"{root}pretrained"
    judge = compare.judge
    segmenters = ["models/segmenters"] if compare.segmenters else []
    probes = ["models/probes"] if compare.probes else []
    sweeps = ["results/sweeps"] if compare.sweeps else []
    # All that any method needs: DVC cannot choose by the method's type.
    trained = [
        kind for kind, names in (("adapters", compare.adapters), ("decoders", compare.decoders))
        if names
    ]  # fmt: skip
    trained_for_one = [f"{kind}/{B}" for kind in trained]
    concepts_of_one = [f"concepts/{B}"] if compare.concepts else []
    reported = [
        f"results/{kind}"
        for kind, names in (
            ("robustness", compare.disturbances), ("layers", compare.layers),
            ("concepts", compare.concepts), ("edits", compare.edits),
            ("disentanglement", compare.disentangled),
        )
        if names
    ]  # fmt: skip
    models = {
        "prepare_images": Stage("data/record.json", [], ["data"]),
        "make_backbone": Stage(
            f"models/backbones/{B}/record.json", ["data", pretrained], [f"models/backbones/{B}"],
            networks,
        ),
        "make_autoencoder": Stage(
            "models/autoencoder/record.json", ["data", pretrained], ["models/autoencoder"]
        ),
        "make_prior": Stage(
            "models/prior/record.json", ["data", "models/autoencoder", "latents", pretrained],
            ["models/prior"],
        ),
        "make_segmenter": Stage(
            f"models/segmenters/{P}/record.json", ["data", pretrained], [f"models/segmenters/{P}"],
            {"segmenter": compare.segmenters},
        ),
        "cache_latents": Stage(
            "latents/record.json", ["data", "models/autoencoder"],
            [f"latents/{name}" for name in ("train", "val", "test", "round_trip", "record.json")],
        ),
    }  # fmt: skip
    if not compare.methods:  # an experiment that is for its models
        return models
    return models | {
        "cache_features": Stage(
            f"features/{B}/record.json", ["data", f"models/backbones/{B}"],
            [f"features/{B}/{name}" for name in ("train", "val", "test", "record.json")], networks,
        ),
        "train_adapter": Stage(
            f"adapters/{B}/{A}/record.json",
            ["data", "latents", f"features/{B}", f"models/backbones/{B}", "models/prior"],
            [f"adapters/{B}/{A}"], backbones | {"adapter": compare.adapters},
        ),
        "train_decoder": Stage(
            f"decoders/{B}/{D}/record.json", ["data", f"features/{B}", f"models/backbones/{B}"],
            [f"decoders/{B}/{D}"], backbones | {"decoder": compare.decoders},
        ),
        "draw_samples": Stage(
            f"samples/{B}/{M}/record.json",
            [*trained_for_one, f"features/{B}", "data", f"models/backbones/{B}", "models/prior"],
            [f"samples/{B}/{M}"], backbones | {"method": compare.methods},
        ),
        "score_samples": Stage(
            f"scores/{B}/{M}.record.json",
            [f"samples/{B}/{M}", "data", f"features/{B}", f"features/{judge}",
             f"models/backbones/{B}", f"models/backbones/{judge}", *segmenters],
            _files(f"scores/{B}/{M}", ".parquet", ".sets.json", ".record.json"),
            backbones | {"method": compare.methods},
        ),
        "score_references": Stage(
            f"scores/{B}/references.record.json",
            [f"samples/{B}/{compare.main_method}", "data", "latents", f"features/{B}",
             f"features/{judge}", f"models/backbones/{B}", f"models/backbones/{judge}",
             *segmenters],
            _files(f"scores/{B}/references", ".parquet", ".sets.json", ".record.json"), backbones,
        ),
        "sweep_method": Stage(
            f"results/sweeps/{S}.record.json",
            ["data", "features", "models/backbones", *segmenters, "models/prior", *trained],
            _files(f"results/sweeps/{S}", ".csv", ".png", ".pdf", ".record.json"),
            {"sweep": compare.sweeps},
        ),
        "measure_robustness": Stage(
            f"robustness/{B}/{X}/record.json",
            ["data", f"features/{B}", f"models/backbones/{B}", f"models/backbones/{judge}",
             "models/prior", *trained_for_one],
            [f"robustness/{B}/{X}"], backbones | {"disturbance": compare.disturbances},
        ),
        "plot_robustness": Stage(
            f"results/robustness/{X}.record.json", ["robustness"],
            _files(f"results/robustness/{X}", ".csv", ".png", ".pdf", "_examples.png",
                   "_examples.pdf", ".record.json"),
            {"disturbance": compare.disturbances},
        ),
        "find_concepts": Stage(
            f"concepts/{B}/{C}/record.json", ["data", f"features/{B}", f"models/backbones/{B}"],
            [f"concepts/{B}/{C}"], backbones | {"concepts": compare.concepts},
        ),
        "plot_concepts": Stage(
            f"results/concepts/{C}.record.json", ["concepts"],
            _files(f"results/concepts/{C}", ".csv", ".png", ".pdf", ".record.json"),
            {"concepts": compare.concepts},
        ),
        "fit_probe": Stage(
            f"models/probes/{R}/record.json",
            ["data", f"features/{judge}", f"models/backbones/{judge}", *segmenters],
            [f"models/probes/{R}"], {"probe": compare.probes},
        ),
        "draw_edits": Stage(
            f"edits/{B}/{E}/record.json",
            ["data", f"features/{B}", f"features/{judge}", f"models/backbones/{B}",
             f"models/backbones/{judge}", *segmenters, *probes, "models/prior", *trained_for_one,
             *concepts_of_one],
            [f"edits/{B}/{E}"], backbones | {"edit": compare.edits},
        ),
        "plot_edits": Stage(
            f"results/edits/{E}.record.json", ["edits"],
            _files(f"results/edits/{E}", ".csv", ".md", ".png", ".pdf", "_examples.png",
                   "_examples.pdf", ".record.json"),
            {"edit": compare.edits},
        ),
        "plot_disentanglement": Stage(
            f"results/disentanglement/{E}.record.json", ["edits", *probes],
            _files(f"results/disentanglement/{E}", ".csv", ".png", ".pdf", ".record.json"),
            {"edit": compare.disentangled},
        ),
        "make_tables": Stage(
            "results/tables/record.json", ["samples", "scores", *trained], ["results/tables"]
        ),
        "plot_figures": Stage(
            "results/figures/record.json",
            ["samples", "scores", *trained[:1], "results/tables", "data", "latents"],
            [*(f"results/figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")),
             "results/figures/record.json"],
        ),
        "plot_layers": Stage(
            f"results/layers/{L}.record.json", ["samples", "results/tables", "data"],
            _files(f"results/layers/{L}", ".png", ".pdf", ".record.json"),
            {"layers": list(compare.layers)},
        ),
        "plot_prior": Stage(
            "results/figures/prior_samples.record.json", ["models/prior", "data"],
            _files("results/figures/prior_samples", ".png", ".pdf", ".record.json"),
        ),
        "write_report": Stage(
            "results/report.html",
            ["results/tables", "results/figures", *sweeps, *reported, f"{root}workflow/report"],
            ["results/report.html"],
        ),
    }  # fmt: skip


def dvc_yaml(folder: Path) -> str:
    """The text of dvc.yaml for the experiment in `folder`."""
    compare = read_settings(folder / "params.yaml").compare
    # As DVC itself writes paths: it does not find "./workflow/..." again in its lock.
    root = "../" * len(folder.resolve().relative_to(ROOT).parts)
    stages = {
        rule: _entry(rule, stage, root)
        for rule, stage in stages_of(compare, root).items()
        if all(stage.over.values())
    }
    text = yaml.dump({"stages": stages}, Dumper=_Dumper, sort_keys=False, width=1000)
    if compare.methods:
        shown = {
            "metrics": ["results/tables/metrics.json"],
            "plots": [f"results/figures/{name}.png" for name in FIGURES],
        }
        text += yaml.dump(shown, Dumper=_Dumper, sort_keys=False)
    return HEADER + text


def _entry(rule: str, stage: Stage, root: str) -> dict[str, Any]:
    """A stage as DVC writes it."""
    names = {name: f"${{item.{name}}}" for name in stage.over}
    return {
        **({"matrix": stage.over} if stage.over else {}),
        "cmd": f"snakemake {stage.target} --snakefile {root}Snakefile",
        **({"deps": stage.needs} if stage.needs else {}),
        "params": [
            *(part.format(**names) for part in PARTS[rule]),
            {f"{root}workflow/versions.json": [f"stages.{rule}.version"]},
        ],
        "outs": [_output(path) for path in stage.makes],
    }


class _Dumper(yaml.SafeDumper):
    """Lists of names on one line, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        plain = all(isinstance(item, str) and "/" not in item for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)


def _files(stem: str, *ends: str) -> list[str]:
    return [stem + end for end in ends]


def _output(path: str) -> str | dict[str, dict[str, bool]]:
    """Tables and pictures belong to git, everything else lies in DVC's cache."""
    if path.startswith("results") and not path.endswith(HEAVY):
        return {path: {"cache": False}}
    if path.startswith(NOT_STORED) and not path.endswith("record.json"):
        return {path: {"push": False}}
    return path


def main() -> None:
    folders = [Path(name) for name in sys.argv[1:]] or [
        ROOT,
        *(path.parent for path in sorted(ROOT.glob("experiments/*/params.yaml"))),
    ]
    for folder in folders:
        target = folder / "dvc.yaml"
        text = dvc_yaml(folder)
        target.unlink(missing_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    try:
        main()
    except SacdError as error:
        sys.exit(f"error: {error}")
