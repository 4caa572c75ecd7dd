"""Plots of an evaluation: names of channels stay within them, however long."""

from __future__ import annotations

from matplotlib.text import Annotation

from pixelpath.reports.evaluation import histograms_plot
from pixelpath.reports.pictures import rendered

NAMES = ("specific_humidity_tendency at 500 hPa above the mean sea level (kg m**-2 s**-1)", "total precipitation", "2")


def test_long_names_of_channels_are_not_cut_off() -> None:
    shares = {"training": 0.1, "held_out": 0.1, "samples": 0.1}
    rows = [
        {"channel": name, "lower": 1e-5 * place, "upper": 1e-5 * (place + 1), **shares} for name in NAMES for place in range(9)
    ]
    figure = histograms_plot(rows)
    rendered(figure)
    for axes, name in zip(figure.axes, NAMES, strict=True):
        (label,) = [each for each in axes.get_children() if isinstance(each, Annotation)]
        assert label.get_text().replace("\n", " ") == (f"channel {name}" if name.isdecimal() else name)
        box, around = label.get_window_extent(), axes.get_window_extent()
        assert around.width > 0.35 * figure.bbox.width  # two panels side by side
        assert box.x0 > around.x0
        assert box.x1 < around.x1
