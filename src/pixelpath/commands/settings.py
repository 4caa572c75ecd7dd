"""How the settings of a recipe become options of the command line.

Most settings are plain values: --steps 100, --objective.noise.sigma-max 40. A *choice* is a setting that is one of several named
values, or of several types. It has an option for the name, and one for every setting of what can be chosen:

    --size small --size.encoder.depth 4            --objective.weight grid --objective.weight.count 640

If another type is chosen, settings that both types have (`warmup` of two schedules) keep the recipe's values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
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

from pixelpath.commands import RefusedError
from pixelpath.commands.names import spelled
from pixelpath.data.augment import DIGITS, PHOTOGRAPHS, SINGLE_CHANNEL, SMALL, Augmentation
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import SIZES, Size

AUGMENTATIONS = {"photographs": PHOTOGRAPHS, "small": SMALL, "single-channel": SINGLE_CHANNEL, "digits": DIGITS}
NAMED: dict[type, Mapping[str, Any]] = {Size: SIZES, Augmentation: AUGMENTATIONS}
STAGE_ONE = {"projector", "augmentation"}  # settings of a recipe that stage two does not use
STAGE_TWO = {"preconditioning", "flip", "rot90", "conditional", "freeze_encoder", "dropout", "sampling"}
HIDDEN: dict[type, set[str]] = {NoiseRange: {"shift"}, Recipe: {"name"}}  # what a user has no choice of
BASIC: dict[type, set[str]] = {
    Recipe: {"steps", "batch_size", "ema_decay", "seed", "size", "patch", "flip", "optimizer", "schedule", "data"},
    DataSettings: {"held_out_share", "tile", "resize", "channels"},
}
SHORT = {"lr": "--lr", "warmup": "--warmup"}  # settings of a choice that have a short spelling too

Plain = Callable[[StructTypeInfo], StructConstructorSpec | None]


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

    @property
    def variants(self) -> dict[str, Any]:
        """Everything that can be chosen by its name, the present value first."""
        return {self.name: self.value} | {name: other for name, other in self.named.items() if name != self.name}

    def choose(self, name: str, typed: Mapping[str, Any]) -> Any:
        """The value called `name` with the settings that were typed; UserError if it has none of that name."""
        chosen = self.value if name == self.name else _like(self.named[name], self.value)
        known = [leaf.path for leaf in _leaves(chosen)]
        for path in typed:
            if path not in known:
                words = [place.replace("_", "-") for place in (path, ", ".join(known) or "none at all")]
                raise UserError(f"There is no setting {words[0]} of '{name}': its settings are {words[1]}.", setting=path)
        return _changed(chosen, typed)


@dataclass(frozen=True)
class Typed:
    """A value that stood on the command line, as opposed to a default."""

    value: Any


@dataclass(frozen=True)
class Leaf:
    """A plain setting below a dataclass: its dotted path, the dataclass that has it, its type and value."""

    path: str
    owner: type
    kind: Any
    value: Any

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def registry(*, brief: bool = False) -> ConstructorRegistry:
    """The rules by which tyro reads recipes; the brief ones offer the options that a user needs first, for a short help."""
    rules, busy = ConstructorRegistry(), []

    def plain(info: StructTypeInfo) -> StructConstructorSpec | None:
        """What the rules of tyro itself say."""
        busy.append(info)
        try:
            found = ConstructorRegistry.get_struct_spec(info)
        finally:
            busy.pop()
        return found if isinstance(found, StructConstructorSpec) else None

    @rules.struct_rule
    def settings(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type is Choice:
            return _options(info.default, plain, brief)
        if busy or not is_dataclass(info.type) or not isinstance(info.default, info.type):
            return None
        found = plain(info)
        if found is None:
            return None
        offered = [field for field in found.fields if _offered(field.name, info.default, brief)]
        parts = tuple(_field(replace(field, helptext=_text(field))) for field in offered)
        return replace(found, fields=parts, instantiate=lambda **values: _made(lambda: replace(info.default, **values)))

    @rules.primitive_rule
    def optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        """None can be given where it is allowed, but is seldom meant: the help shows the other values."""
        if NoneType not in get_args(info.type) or info in busy:
            return None
        busy.append(info)
        try:
            found = ConstructorRegistry.get_primitive_spec(info)
        finally:
            busy.pop()
        assert isinstance(found, PrimitiveConstructorSpec)
        metavar = found.metavar.removeprefix("{None}|").replace("{None,", "{")
        return replace(found, metavar=metavar if "," in metavar else metavar.strip("{}"))

    return rules


def _made(make: Callable[[], Any]) -> Any:
    """What `make` makes; a mistake in it goes past tyro."""
    try:
        return make()
    except ValueError as error:
        raise RefusedError from error


def _text(field: StructFieldSpec) -> str:
    """The help of a field, the settings in it spelled as options."""
    text = field.helptext() if callable(field.helptext) else field.helptext
    return spelled(text or "")


def _offered(name: str, owner: Any, brief: bool) -> bool:
    """Whether a setting is an option: some belong to the other stage, some follow from the data, some are for the full help."""
    if isinstance(owner, Recipe) and name in (STAGE_TWO if owner.is_encoder else STAGE_ONE):
        return False
    if name in HIDDEN.get(type(owner), ()):
        return False
    return not brief or type(owner) not in BASIC or name in BASIC[type(owner)]


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
    words = [re.findall(r"[A-Z][a-z]+[A-Z]$|[A-Z]+(?![a-z])|[A-Z][a-z]*", variant.__name__) for variant in variants]
    if len({each[-1] for each in words}) == 1:
        words = [each[:-1] for each in words]
    words = [[word for word in each if word.lower() != setting] for each in words]
    return {"-".join(each).lower(): variant() for each, variant in zip(words, variants, strict=True)}


def _options(choice: Choice, plain: Plain, brief: bool) -> StructConstructorSpec:
    """One option for the name, and one for every setting of anything that can be chosen."""
    variants = choice.variants
    names = [name for name in ("own", *choice.named) if name in variants]
    pick = Annotated[Literal[tuple(names)], tyro.conf.arg(name="")]  # pyright: ignore[reportInvalidTypeForm]
    found = [StructFieldSpec("name", pick, choice.name, "Which one.")]  # pyright: ignore[reportArgumentType]
    leaves: dict[str, Leaf] = {}
    owners: dict[str, list[str]] = {}
    for name, value in variants.items():
        for leaf in _leaves(value):
            leaves.setdefault(leaf.path, leaf)
            owners.setdefault(leaf.path, []).append(name)
    for path, leaf in leaves.items():
        if not brief or leaf.name in SHORT:
            of = "" if len(owners[path]) == len(names) else f"(Of {', '.join(owners[path])}.)"
            found.append(StructFieldSpec(path, _noticed(leaf), leaf.value, f"{_help(leaf, plain)} {of}".strip()))

    def instantiate(name: str, **settings: Any) -> Any:
        typed = {path: value.value for path, value in settings.items() if isinstance(value, Typed)}
        typed |= {path: value for path, value in settings.items() if value is (not leaves[path].value)}  # a flag is not read
        return _made(lambda: choice.choose(name, typed))

    return StructConstructorSpec(instantiate, tuple(found))


def _help(leaf: Leaf, plain: Plain) -> str:
    """What the docstring of a setting says."""
    spec = plain(StructTypeInfo.make(leaf.owner, tyro.MISSING_NONPROP, False))
    return next((_text(field) for field in (() if spec is None else spec.fields) if field.name == leaf.name), "")


def _noticed(leaf: Leaf) -> Any:
    """The setting's type, read so that a value from the command line arrives as `Typed`."""
    plain = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(leaf.kind, set()))
    assert isinstance(plain, PrimitiveConstructorSpec)
    read = plain.instance_from_str
    noticed = replace(plain, instance_from_str=lambda texts: Typed(read(texts)), is_instance=lambda value: True)
    aliases = [SHORT[leaf.name]] if leaf.name in SHORT else None
    return Annotated[leaf.kind, noticed, tyro.conf.arg(aliases=aliases)]


def _leaves(value: Any, path: str = "") -> Iterator[Leaf]:
    """Every plain setting below a dataclass."""
    hints = get_type_hints(type(value))
    for part in fields(value):
        inner, place = value.__dict__[part.name], f"{path}{part.name}"
        if is_dataclass(inner):
            yield from _leaves(inner, f"{place}.")
        else:
            yield Leaf(place, type(value), hints[part.name], inner)


def _like(new: Any, old: Any) -> Any:
    """`new` with the settings that it shares with `old`, if they are of unequal types."""
    if type(new) is type(old):
        return new
    shared = {part.name for part in fields(new)} & {part.name for part in fields(old)}
    return replace(new, **{name: old.__dict__[name] for name in shared})


def _changed(value: Any, typed: Mapping[str, Any]) -> Any:
    """A copy of a tree of dataclasses with other values at dotted paths, all at once, since some are only right together."""
    parts: dict[str, Any] = {path: new for path, new in typed.items() if "." not in path}
    for name in {path.split(".")[0] for path in typed if "." in path}:
        below = {path.removeprefix(f"{name}."): new for path, new in typed.items() if path.startswith(f"{name}.")}
        parts[name] = _changed(value.__dict__[name], below)
    return replace(value, **parts)
