"""Put tables and figures on one self-contained page: results/report.html."""

import argparse
import base64
import html
from pathlib import Path

import pandas as pd

from sacd.files import atomic
from stages.artefacts import FIGURES, REPORT, SHOWN, TABLES
from stages.common import run

CAPTIONS = Path(__file__).parent.parent / "workflow/report"
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left; }
img { max-width: 100%; }
figcaption, p.caption { color: #444; max-width: 50rem; }
"""


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>SACD: results</title><style>{STYLE}</style></head><body>",
        f"<h1>What the backbones see</h1><p>{_caption('workflow')}</p>",
        _figure("reconstructions"),
        _table("main", pd.DataFrame(_main_table()), "Scores"),
        _figure("scores"),
        _figure("tradeoffs"),
        _table("checks", _csv("checks"), "Checks"),
        _table("training_table", _csv("training"), "Training"),
        _figure("training"),
        "<h2>The prior</h2>",
        _figure("prior_samples"),
        "</body></html>\n",
    ]
    with atomic(REPORT) as temporary:
        temporary.write_text("\n".join(parts))


def _main_table() -> list[dict[str, str]]:
    """The metrics of main.md, as its cells show them."""
    lines = (TABLES / "main.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(("backbone", "method", *SHOWN), row, strict=True)) for row in rows[2:]]


def _csv(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"{name}.csv", keep_default_na=False)


def _table(caption: str, table: pd.DataFrame, title: str) -> str:
    body = table.to_html(index=False, border=0, float_format=lambda value: f"{value:.4g}")
    return f"<h2>{title}</h2><p class='caption'>{_caption(caption)}</p>{body}"


def _figure(name: str) -> str:
    picture = base64.b64encode((FIGURES / f"{name}.png").read_bytes()).decode()
    caption = _caption(name)
    return (
        f"<figure><img alt='{caption}' src='data:image/png;base64,{picture}'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _caption(name: str) -> str:
    text = (CAPTIONS / f"{name}.rst").read_text().strip().replace("``", "")
    return html.escape(text, quote=True)


if __name__ == "__main__":
    run(main)
