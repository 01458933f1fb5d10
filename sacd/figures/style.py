"""How figures are drawn and saved: one look, PNG for the screen and PDF for print."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

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
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # colour-blind safe


def save_figure(figure: Figure, path: Path) -> None:
    """Write `path`.png and `path`.pdf and close the figure."""
    for kind in ("png", "pdf"):
        with atomic(path.with_suffix(f".{kind}")) as temporary:
            # A PDF's creation date would make every run's file different.
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(temporary, format=kind, dpi=110, metadata=metadata)
    plt.close(figure)
