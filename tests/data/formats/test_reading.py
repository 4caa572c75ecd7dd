"""What readers of foreign formats share."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelpath.data.formats.reading import needs


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(ValueError, match=r"a\.xyz needs the package nosuchpackage .* pip install 'pixelpath\[geo\]'"):
        needs("nosuchpackage.part", "geo", Path("a.xyz"))
