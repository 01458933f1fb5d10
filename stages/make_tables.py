"""Summarise scores: results/tables/{main,checks,training}.csv, main.md and methods.md.

main: means over images with 95 % bootstrap intervals, floors and ceilings among the methods.
checks: what the comparison claims, each with its numbers and whether it holds.
training: one row an adapter, with the test that its condition is used.
"""

import argparse
from itertools import pairwise

import pandas as pd

from pipeline.artefacts import (
    REFERENCE_SCORES,
    REFERENCES,
    SHOWN,
    TABLES,
    adapter_folder,
    sample_folder,
    score_file,
)
from pipeline.program import run
from pipeline.record import Recorder, read_record
from pipeline.settings.load import load_settings, training_folder
from pipeline.settings.sections import Compare, Settings
from pipeline.tabular import interval, markdown, read_method_scores, write_csv
from sacd.files import read_json, write_json, write_text
from sacd.metrics.bootstrap import summarise

METRICS = (
    "cos_median", "cos_mean", "cos_q05", "cos_pooled", "rel_l2", "top1_match", "top5_match",
    "judge_cos_median", "judge_cos_pooled", "judge_top1_match", "judge_top5_match", "object_iou",
    "psnr_db", "ssim", "lpips", "spread_image", "spread_features",
)  # fmt: skip
ACROSS = {
    "cos_median": ".2f",
    "judge_cos_median": ".2f",
    "judge_top1_match": ".2f",
    "judge_frechet": ".2f",
    "psnr_db": ".1f",
    "seconds_per_sample": ".2g",
}  # metric: format
AUTOENCODER_KEEPS = {"cos_median": 0.9, "top1_match": 0.95}  # at least


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    recorder, settings = Recorder("make_tables"), load_settings()
    table = pd.DataFrame(
        [
            _summary(backbone, method, settings)
            for backbone in settings.compare.backbones
            for method in _in_order(settings.compare.methods)
        ]
    )
    tables = {"main": table, "checks": _checks(table, settings), "training": _training(settings)}
    for name, content in tables.items():
        write_csv(TABLES / f"{name}.csv", content)
    for name, text in (("main", _markdown(table)), ("methods", _methods(table))):
        write_text(TABLES / f"{name}.md", text)
    write_json(TABLES / "metrics.json", _main_numbers(table))
    recorder.write(TABLES / "record.json", settings)


def _main_numbers(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """By backbone and method, the means that people read: what `dvc metrics` compares."""
    return {
        backbone: {
            row["method"]: {name: float(row[name]) for name in SHOWN if pd.notna(row.get(name))}
            for row in rows.to_dict("records")
        }
        for backbone, rows in table.groupby("backbone", sort=False)
    }


def _in_order(methods: list[str]) -> list[str]:
    """Ceilings, methods, floors."""
    ceilings = [name for name, kind in REFERENCES.items() if kind == "ceiling"]
    return [*ceilings, *methods, *(name for name in REFERENCES if name not in ceilings)]


def _summary(backbone: str, method: str, settings: Settings) -> dict[str, object]:
    """One row of the main table."""
    reference = method in REFERENCES
    source = REFERENCE_SCORES if reference else method
    scores = read_method_scores(backbone, source)
    scores = scores[scores.method == method]
    samples = int(scores.groupby("image_id").size().iloc[0])
    row: dict[str, object] = {
        "backbone": backbone,
        "method": method,
        "kind": REFERENCES.get(method, "method"),
        "images": scores.image_id.nunique(),
        "samples_per_image": samples,
    }
    row |= summarise(scores, METRICS, settings.seed)
    sets = score_file(backbone, source).with_suffix(".sets.json")
    row |= {"fid": None, "kid": None, **read_json(sets)[method]}
    if not reference:
        record = read_record(sample_folder(backbone, method))
        seconds = record["seconds_per_image"]  # none if an earlier, stopped run drew them all
        row |= {
            "seconds_per_sample": seconds and seconds / samples,
            "peak_memory_mb": record["peak_memory_mb"],
            "training_seconds": _training_seconds(backbone, method, settings),
        }
    return row


def _training_seconds(backbone: str, method: str, settings: Settings) -> float:
    folder = training_folder(settings, backbone, method)
    return read_record(folder)["training_seconds"] if folder else 0.0


def _checks(table: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """What the comparison claims, for each backbone, and whether it holds."""
    rows = []
    for backbone, group in table.groupby("backbone", sort=False):
        by_method = group.set_index("method")
        claims = [
            *_keeps_what_is_seen(by_method),
            *_in_expected_order(by_method, settings.compare),
            _closes_the_gap(by_method, settings.compare),
        ]
        rows += [{"backbone": backbone, **claim} for claim in claims]
    return pd.DataFrame(rows)


def _keeps_what_is_seen(by_method: pd.DataFrame) -> list[dict[str, object]]:
    """The ceiling must be high: what the round trip loses, no sampler of this prior brings back."""
    return [
        {
            "check": "the autoencoder keeps what the backbone sees",
            "metric": metric,
            "value": value,
            "against": least,
            "holds": bool(value >= least),
        }
        for metric, least in AUTOENCODER_KEEPS.items()
        if pd.notna(value := by_method.loc["autoencoder", metric])
    ]


def _in_expected_order(by_method: pd.DataFrame, compare: Compare) -> list[dict[str, object]]:
    """Each method against the next in `compare.ranking`; the main one clearly so."""
    rows = []
    for better, worse in pairwise(compare.ranking):
        clearly = better == compare.main_method
        for metric in ("cos_median", "top1_match", "object_iou"):
            if by_method[metric].isna().any():
                continue
            high, low = by_method.loc[better], by_method.loc[worse]
            rows.append(
                {
                    "check": f"{better} above {worse}" + ", intervals apart" * clearly,
                    "metric": metric,
                    "value": high[metric],
                    "against": low[metric],
                    "holds": bool(
                        high[f"{metric}_low"] > low[f"{metric}_high"]
                        if clearly
                        else high[metric] > low[metric]
                    ),
                }
            )
    return rows


def _closes_the_gap(by_method: pd.DataFrame, compare: Compare) -> dict[str, object]:
    main, floor, ceiling = (
        by_method.cos_median[name] for name in (compare.main_method, "shuffled", "autoencoder")
    )
    share = (main - floor) / (ceiling - floor)
    return {
        "check": "share of the way from shuffled to autoencoder",
        "metric": "cos_median",
        "value": share,
        "against": compare.gap_closed,
        "holds": bool(share >= compare.gap_closed),
    }


def _training(settings: Settings) -> pd.DataFrame:
    rows = []
    for backbone in settings.compare.backbones:
        for adapter in settings.compare.adapters:
            folder = adapter_folder(backbone, adapter)
            training, record = read_json(folder / "training.json"), read_record(folder)
            last = training["history"][-1]
            rows.append(
                {
                    "backbone": backbone,
                    "adapter": adapter,
                    "steps": int(last["step"]),
                    "training_seconds": record["training_seconds"],
                    "parameters": record["parameters_in_adapter"],
                    "loss_true": last["loss_true"],
                    "loss_shuffled": last["loss_shuffled"],
                    "loss_null": last["loss_null"],
                    "margin": last["margin"],
                    "margin_error": last["margin_error"],
                    "uses_condition": training["uses_condition"],
                }
            )
    return pd.DataFrame(rows)


def _markdown(table: pd.DataFrame) -> str:
    """The main table for reading: mean [interval] of the metrics that make the point."""
    rows = []
    for row in table.to_dict("records"):
        cells = [interval(row, metric, 1 if metric == "psnr_db" else 3) for metric in SHOWN]
        name = row["method"] if row["kind"] == "method" else f"{row['method']} ({row['kind']})"
        rows.append([row["backbone"], name, *cells])
    return markdown(["backbone", "method", *SHOWN], rows)


def _methods(table: pd.DataFrame) -> str:
    """The main table, one row a method: means for each backbone in turn."""
    backbones = list(dict.fromkeys(table.backbone))
    shown = {metric: form for metric, form in ACROSS.items() if table[metric].notna().any()}
    heads = [f"{metric} ({', '.join(backbones)})" for metric in shown]
    lines = []
    for method, rows in table.groupby("method", sort=False):
        values = rows.set_index("backbone").loc[backbones]
        cells = [
            "" if values[metric].isna().all() else ", ".join(f"{v:{form}}" for v in values[metric])
            for metric, form in shown.items()
        ]
        lines.append([method, *cells])
    return markdown(["method", *heads], lines)


if __name__ == "__main__":
    run(main)
