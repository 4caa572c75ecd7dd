"""How tests ask for a mistake of the user: by its setting and by the facts in its sentence, not by its prose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pixelpath.errors import UserError


@contextmanager
def refused(setting: str | None, *facts: object) -> Iterator[None]:
    """The block raises a UserError of one sentence about `setting`, in which all `facts` (numbers, names, paths) stand."""
    with pytest.raises(UserError) as caught:
        yield
    sentence = str(caught.value)
    assert caught.value.setting == setting
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert [fact for fact in map(str, facts) if fact not in sentence] == []
