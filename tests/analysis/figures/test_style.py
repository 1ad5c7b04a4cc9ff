"""The style of methods, and bands over seeds."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import assign_styles, draw_band, method_styles


def test_every_method_looks_different():
    found = assign_styles([f"method {i}" for i in range(80)] + ["sgd"])
    assert len({(look.color, look.marker) for look in found.values()}) == 81
    assert found["sgd"].color == (0.0, 0.0, 0.0)


def test_names_are_ordered_as_people_count():
    names = ["T0 = 40", "T0 = 120", "T0 = 1.5", "late", "sgd", "late_2", "7"]
    assert list(assign_styles(names)) == ["sgd", "7", "T0 = 1.5", "T0 = 40", "T0 = 120", "late", "late_2"]


def test_colours_know_plain_training_by_its_method():
    frame = pd.DataFrame({"label": ["Base (SGD)", "swa"], "method": ["sgd", "swa"]})
    assert method_styles(frame)["Base (SGD)"].color == (0.0, 0.0, 0.0)
    assert list(method_styles(frame)) == ["Base (SGD)", "swa"]


def test_a_band_leaves_out_what_a_seed_lacks():
    ax = Figure().subplots()
    draw_band(ax, np.arange(3.0), np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]]), assign_styles(["a"])["a"])
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [2.0, 2.0, np.nan])
