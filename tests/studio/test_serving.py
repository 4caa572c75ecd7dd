"""Without its packages the studio says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.refusal import refused

from pixelpath.studio.serving import serve


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with refused(None, "uvicorn", "pixelpath[studio]"):
        serve([tmp_path], 0, browser=False)
