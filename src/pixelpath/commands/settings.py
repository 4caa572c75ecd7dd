"""How the settings of a recipe become options of the command line.

Most settings are plain values: --steps 100, --objective.noise.sigma_max 40. A *choice* is a setting that is one of several named
values, or of several types; it has a name of its own, and the settings of what was chosen below it:

    --size small --size.encoder.depth 4            --objective.weight grid --objective.weight.count 640

A setting that both the recipe's own value and the newly chosen type have (`warmup` of two schedules) keeps the recipe's value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from pixelpath.data.augment import DIGITS, PHOTOGRAPHS, SINGLE_CHANNEL, SMALL, Augmentation
from pixelpath.noise import NoiseRange
from pixelpath.recipes import RECIPES
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import SIZES, Size

AUGMENTATIONS = {"photographs": PHOTOGRAPHS, "small": SMALL, "single-channel": SINGLE_CHANNEL, "digits": DIGITS}
NAMED: dict[type, Mapping[str, Any]] = {Size: SIZES, Augmentation: AUGMENTATIONS}
STAGE_ONE = {"projector", "augmentation"}  # settings of a recipe that the other stage does not use, so has no options for
STAGE_TWO = {"preconditioning", "flip", "rot90", "conditional", "freeze_encoder", "dropout", "sampling"}


@dataclass(frozen=True)
class Choice:
    """A setting's present value, and the named ones it could be instead."""

    value: Any
    named: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What the present value is called; "own" if it is none of the named ones."""
        by_type = len({type(other) for other in self.named.values()}) == len(self.named)
        mark = type if by_type else lambda value: value
        return next((name for name, other in self.named.items() if mark(other) == mark(self.value)), "own")

    def choose(self, name: str, given: Mapping[str, Any]) -> Any:
        """The value called `name` with the settings given; ValueError if it has none of that name."""
        chosen = self.value if name == self.name else _like(self.named[name], self.value)
        known = [path for path, _ in _leaves(chosen)]
        for path in given:
            if path not in known:
                words = [place.replace("_", "-") for place in (path, ", ".join(known) or "none at all")]
                raise ValueError(f"There is no setting {words[0]} of '{name}': its settings are {words[1]}.")
        return _changed(chosen, given)


@dataclass(frozen=True)
class ConditionData:
    """A value that the user gave, as opposed to one that was there before."""

    value: Any


def pick(arguments: Sequence[str]) -> tuple[str, Recipe | None, list[str]]:
    """The recipe that the arguments of `train` name, and the arguments without its name; ("", None, all of them) if none.

    A recipe's name that follows an option is taken for that option's value if there is another. Raises ValueError for a name that
    is nearly one.
    """
    rows = {name: make() for name, make in RECIPES.items()}
    after_option = [place > 0 and arguments[place - 1].startswith("-") for place in range(len(arguments))]
    free = [place for place, word in enumerate(arguments) if not word.startswith("-") and not after_option[place]]
    exact = [place for place in (*free, *range(len(arguments))) if arguments[place] in rows]
    if exact:
        rest = [word for place, word in enumerate(arguments) if place != exact[0]]
        return arguments[exact[0]], rows[arguments[exact[0]]], rest
    for place in free:
        near = difflib.get_close_matches(arguments[place], rows, 3, 0.4)
        if near:
            raise ValueError(
                f"Unknown recipe {arguments[place]}: did you mean {', '.join(near)}? (`pixelpath train --help` lists all.)"
            )
    return "", None, list(arguments)


def registry() -> ConstructorRegistry:
    """The rules by which tyro reads recipes."""
    rules, busy = ConstructorRegistry(), []

    def plain(info: StructTypeInfo) -> StructConstructorSpec | None:
        """What the rules below this one say."""
        busy.append(info)
        try:
            found = ConstructorRegistry.get_struct_spec(info)
        finally:
            busy.pop()
        return found if isinstance(found, StructConstructorSpec) else None

    @rules.struct_rule
    def settings(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is Choice:
            help_of = plain(StructTypeInfo.make(type(info.default.value), info.default.value, False))
            return _options(info.default, {} if help_of is None else {field.name: field.helptext for field in help_of.fields})
        if busy or not is_dataclass(info.type) or not isinstance(info.default, info.type):
            return None
        found = plain(info)
        if found is None:
            return None
        parts = tuple(_field(field) for field in found.fields if field.name not in _unused(info.default))
        return replace(found, fields=parts, instantiate=lambda **values: replace(info.default, **values))

    return rules


def _unused(value: Any) -> set[str]:
    if isinstance(value, NoiseRange):
        return {"shift"}  # it follows from the size of the images
    if not isinstance(value, Recipe):
        return set()
    return STAGE_TWO if value.is_encoder else STAGE_ONE


def _field(field: StructFieldSpec) -> StructFieldSpec:
    """The same field, as a choice if it is one; a union that cannot be chosen from keeps the type of its value."""
    named = next((named for kind, named in NAMED.items() if isinstance(field.default, kind)), None)
    if named is not None:
        return replace(field, type=Choice, default=Choice(field.default, named))
    variants = get_args(field.type) if get_origin(field.type) in (Union, UnionType) else ()
    if not variants or not all(isinstance(variant, type) and is_dataclass(variant) for variant in variants):
        return field
    if any(part.default is MISSING and part.default_factory is MISSING for variant in variants for part in fields(variant)):
        return replace(field, type=type(field.default))
    return replace(field, type=Choice, default=Choice(field.default, _named(variants, field.name)))


def _named(variants: tuple[type, ...], setting: str) -> dict[str, Any]:
    """An instance of every type by its name in words, without the word that all of them end in and without the setting's name."""
    words = [re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*", variant.__name__) for variant in variants]
    if len({each[-1] for each in words}) == 1:
        words = [each[:-1] for each in words]
    words = [[word for word in each if word.lower() != setting] for each in words]
    return {"-".join(each).lower(): variant() for each, variant in zip(words, variants, strict=True)}


def _options(choice: Choice, help_of: Mapping[str, Any]) -> StructConstructorSpec:
    """One option for the name, and one for every setting of anything that can be chosen."""
    names = list(choice.named) if choice.name in choice.named else ["own", *choice.named]
    pick = Annotated[Literal[tuple(names)], tyro.conf.arg(name="")]  # pyright: ignore[reportInvalidTypeForm]
    found = [StructFieldSpec("name", pick, choice.name, "Which one; the others are its settings.")]  # pyright: ignore[reportArgumentType]
    settings: dict[str, tuple[Any, Any, list[str]]] = {}
    for name, value in {choice.name: choice.value, **choice.named}.items():
        for path, (kind, default) in _leaves(value if name != choice.name else choice.value):
            settings.setdefault(path, (kind, default, []))[2].append(name)
    for path, (kind, default, owners) in settings.items():
        where = help_of.get(path) if len(owners) == len(names) else f"Of {', '.join(owners)}."
        found.append(StructFieldSpec(path, _noticed(kind), default, where))

    def instantiate(name: str, **settings: Any) -> Any:
        return choice.choose(name, {path: value.value for path, value in settings.items() if isinstance(value, ConditionData)})

    return StructConstructorSpec(instantiate, tuple(found))


def _noticed(kind: Any) -> Any:
    """The type, so read that a value from the command line arrives as `Given`."""
    plain = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, set()))
    assert isinstance(plain, PrimitiveConstructorSpec)
    read = plain.instance_from_str
    return Annotated[
        kind, replace(plain, instance_from_str=lambda texts: ConditionData(read(texts)), is_instance=lambda value: True)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Every plain setting below a dataclass: its dotted path, type and value."""
    hints = get_type_hints(type(value))
    for part in fields(value):
        inner, place = value.__dict__[part.name], f"{path}{part.name}"
        if is_dataclass(inner):
            yield from _leaves(inner, f"{place}.")
        else:
            yield place, (hints[part.name], inner)


def _like(new: Any, old: Any) -> Any:
    """`new` with the settings that it shares with `old`, if they are of unequal types."""
    if type(new) is type(old):
        return new
    shared = {part.name for part in fields(new)} & {part.name for part in fields(old)}
    return replace(new, **{name: old.__dict__[name] for name in shared})


def _changed(value: Any, given: Mapping[str, Any]) -> Any:
    """A copy of a tree of dataclasses with other values at dotted paths, all at once, since some are only right together."""
    parts: dict[str, Any] = {path: new for path, new in given.items() if "." not in path}
    for name in {path.split(".")[0] for path in given if "." in path}:
        below = {path.removeprefix(f"{name}."): new for path, new in given.items() if path.startswith(f"{name}.")}
        parts[name] = _changed(value.__dict__[name], below)
    return replace(value, **parts)
