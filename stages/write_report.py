"""Put tables and figures on one self-contained page: results/report.html."""

import argparse
import html
from itertools import groupby
from pathlib import Path

import pandas as pd

from pipeline.artefacts import FIGURES, REPORT, ROOT, SHOWN, TABLES
from pipeline.page import picture, write_page
from pipeline.program import run
from pipeline.report_figures import more_figures
from pipeline.settings.load import load_settings
from pipeline.tabular import read_table
from sacd.files import readable

CAPTIONS = ROOT / "workflow/report"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    parts = [
        f"<p>{html.escape(_caption('workflow'))}</p>",
        _figure("reconstructions"),
        _table("main", pd.DataFrame(_main_table()), "Scores"),
        _figure("scores"),
        _figure("tradeoffs"),
        _table("checks", read_table("checks"), "Checks"),
        _table("training_table", read_table("training"), "Training"),
        _figure("training"),
        "<h2>The prior</h2>",
        _figure("prior_samples"),
    ]
    figures = more_figures(load_settings().compare)
    for title, shown in groupby(figures, key=lambda figure: figure[0]):
        parts.append(f"<h2>{title}</h2>")
        parts += [_explained(caption, path, path.stem) for _, caption, path in shown]
    write_page(REPORT, "SACD: what the backbones see", parts)


def _main_table() -> list[dict[str, str]]:
    """The metrics of main.md, as its cells show them."""
    path = TABLES / "main.md"
    with readable(path):
        lines = path.read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(("backbone", "method", *SHOWN), row, strict=True)) for row in rows[2:]]


def _table(caption: str, table: pd.DataFrame, title: str) -> str:
    body = table.to_html(
        index=False, border=0, na_rep="n/a", float_format=lambda value: f"{value:.4g}"
    )
    return f"<h2>{title}</h2><p class='caption'>{html.escape(_caption(caption))}</p>{body}"


def _figure(name: str) -> str:
    return _explained(name, FIGURES / f"{name}.png")


def _explained(caption: str, path: Path, name: str = "") -> str:
    """A figure above its caption, which begins with its name."""
    text = f"{name}: {_caption(caption)}" if name else _caption(caption)
    below = f"<figcaption>{html.escape(text)}</figcaption>"
    return f"<figure>{picture(path.read_bytes(), text)}{below}</figure>"


def _caption(name: str) -> str:
    return (CAPTIONS / f"{name}.rst").read_text().strip().replace("``", "")


if __name__ == "__main__":
    run(main)
