"""Labels of figures are drawn as they stand, whatever classes of photographs are called."""

import numpy as np
import pytest

from sacd.figures.concepts import plot_concepts
from sacd.figures.edits import plot_edit_examples
from sacd.figures.style import render

NAMES = ["class_$a_$", r"class_$\frac{$", "class_<b>x</b>&amp;", "class_100%{}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_looks_like_a_formula_is_none(name: str) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    figures = [
        plot_concepts({"net": [(name, image)]}),
        plot_edit_examples({"net": [(name, [(name, image), (name, image)])]}),
    ]
    for figure in figures:
        assert render(figure, "png").startswith(b"\x89PNG")
        assert figure.axes[0].get_ylabel() == name
