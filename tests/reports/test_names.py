"""Labels of images say what tells these apart, in little room."""

import pytest

from pixelpath.reports.names import short


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("item/misc/THE key.png", "THE key.png"),
        ("00000012", "00000012"),
        ("2020-01-05T12:00:00", "2020-01-05\n12:00:00"),
        ("runs/2020-01-05Tea", "2020-01-05Tea"),
    ],
)
def test_labels(name: str, label: str) -> None:
    assert short(name) == label
