"""The top of a page, and what an audit's page folds away."""

import re
from pathlib import Path

import pytest

from pixelpath.reports.audit import FREQUENT, LISTED, write_audit
from pixelpath.reports.page import Verdict, duration, header


def test_a_long_fact_has_room_for_its_words() -> None:
    page = header("kind", "title", Verdict([], "good"), {"size": "304 x 304", "reference": "data/tiles16"})
    assert re.findall(r"<div( class='long')?><dt>(\w+)", page) == [("", "size"), (" class='long'", "reference")]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(111.4, "111 s"), (119.9, "120 s"), (123, "2 min"), (185, "3.1 min"), (594, "9.9 min"), (1234, "21 min"), (9000, "2.5 h")],
)
def test_a_duration_has_two_digits_where_minutes_are_few(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def audited(folder: Path, sizes: dict[str, int], *findings: str) -> str:
    found = [{"level": "note", "about": "", "what": what, "where": [], "remedy": "Look."} for what in findings]
    document = {"findings": found, "sizes": sizes, "path": "photos", "settings": {}}
    return write_audit(folder, document).read_text(encoding="utf-8")


@pytest.mark.parametrize(("count", "folded"), [(3, 0), (FREQUENT + 1, 0), (FREQUENT + 2, 2), (400, 388)])
def test_many_sizes_are_folded_away(tmp_path: Path, count: int, folded: int) -> None:
    page = audited(tmp_path, {f"{100 + number}x70": 500 - number for number in range(count)})
    shown, *rest = re.split(r"<summary>(\d+) other sizes[^<]*</summary>", page)
    assert shown.count("x70</td>") == count - folded
    assert [int(rest[0])] == [folded] if folded else rest == []
    assert page.count("x70</td>") == min(count, LISTED)
    assert (f"{LISTED - FREQUENT} are listed" in page) == (count > LISTED)


def test_a_finding_begins_like_a_sentence_unless_with_a_path(tmp_path: Path) -> None:
    page = audited(tmp_path, {}, "there are only 7 images", "data/a.png is grey", "18 files are damaged")
    for said in ("There are only 7 images. Look.", "data/a.png is grey. Look.", "18 files are damaged. Look."):
        assert f"<td>{said}" in page
