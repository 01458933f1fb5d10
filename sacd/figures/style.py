"""How figures are drawn and saved: one look, PNG for the screen and PDF for print."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sacd.files import atomic

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "pdf.fonttype": 42,
    }
)
# Colour-blind safe (Okabe & Ito 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SPREAD_LIMIT = 0.3  # of maps of the deviation among samples: one scale in all figures


def rgb(image: Tensor) -> np.ndarray:
    """(3, H, W) -> (H, W, 3)."""
    return image.permute(1, 2, 0).numpy()


def score_note(cosine: float, same_class: bool | None) -> str:
    """What stands below a sample: its features' cosine, and whether the class is the same."""
    mark = "" if same_class is None else (" ✓" if same_class else " ✗")
    return f"cos {cosine:.2f}{mark}"


def error_bars(rows: pd.DataFrame, metric: str) -> np.ndarray:
    """Lengths (2, N) below and above `metric`, from its columns `_low` and `_high`."""
    low, high = rows[f"{metric}_low"], rows[f"{metric}_high"]
    return np.stack([rows[metric] - low, high - rows[metric]])


def render(figure: Figure, kind: str) -> bytes:
    """A figure as the content of a file: `kind` is "png" or "pdf"."""
    drawn = io.BytesIO()
    # A PDF's creation date would make every run's file different.
    metadata = {"CreationDate": None} if kind == "pdf" else None
    # As large as what was drawn: labels and legends may be wider than a figure of few panels.
    figure.savefig(drawn, format=kind, dpi=110, metadata=metadata, bbox_inches="tight")
    if kind == "pdf":
        return drawn.getvalue()
    small = io.BytesIO()  # without the channel of opacity that matplotlib adds
    Image.open(drawn).convert("RGB").save(small, format="png", optimize=True)
    return small.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write `path`.png and `path`.pdf and close the figure."""
    for kind in ("png", "pdf"):
        with atomic(path.with_suffix(f".{kind}")) as temporary:
            temporary.write_bytes(render(figure, kind))
    plt.close(figure)
