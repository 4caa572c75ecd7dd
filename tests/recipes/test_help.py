"""Every setting of a recipe, of whatever type is chosen, has a help text: the string below its field."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from pixelpath.data.settings import DataSettings
from pixelpath.recipes.recipe import Recipe


def settings_of(kind: type) -> Iterator[type]:
    """The dataclasses that the fields of one may hold, and itself."""
    yield kind
    hints = get_type_hints(kind)
    for field in fields(kind):
        for each in _types(hints[field.name]):
            if isinstance(each, type) and is_dataclass(each):
                yield from settings_of(each)


def _types(hint: Any) -> Iterator[Any]:
    yield hint
    for part in get_args(hint):
        yield from _types(part)


def explained(kind: type) -> set[str]:
    """The fields with a string below them."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(found, ast.ClassDef)
    names: set[str] = set()
    for field, below in zip(found.body, found.body[1:], strict=False):
        said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and said:
            names.add(field.target.id)
    return names


KINDS = sorted(set(settings_of(Recipe)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_setting_has_a_help_text(kind: type) -> None:
    assert {field.name for field in fields(kind)} - explained(kind) == set()


def test_the_settings_of_a_recipe_are_found() -> None:
    assert {DataSettings, Recipe} < set(settings_of(Recipe))
    assert len(set(settings_of(Recipe))) > 25
