"""What stands beside the colours of a sheet."""

import re

from pixelpath.reports.page import number
from pixelpath.reports.tiles import colour_bar


def words(lowest: float, highest: float, title: str) -> list[str]:
    bar = colour_bar({"lowest": lowest, "highest": highest, "title": title, "stops": ["#000000", "#ffffff"]})
    return re.findall(r"<span>([^<]*)</span>", bar)


def test_a_colour_bar_says_its_ends_and_units_if_they_are_known() -> None:
    assert words(-2.5, 40.0, "rain (mm/h)") == ["\N{MINUS SIGN}2.5", "rain (mm/h)", "40"]
    assert words(6697.0, 30664.5, "") == ["6697", "", "30,664"]
    assert colour_bar(None) == ""


def test_numbers_have_four_digits_or_all_before_the_point() -> None:
    said = [number(value) for value in (0.000123456, 3.14159, 9999.4, 41480.0, 1234567.0, 2.5e9, -65535.0)]
    assert said == ["0.0001235", "3.142", "9999", "41,480", "1,234,567", "2.5e+09", "-65,535"]
