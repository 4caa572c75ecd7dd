"""Strict loading: weights fit a module if they have its keys and shapes, no more and no fewer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from pixelpath.errors import UserError

NAMED = 4  # keys of each kind that a sentence names

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def check_fit(own: Shapes, given: Shapes, what: str, remedy: str, setting: str | None = None) -> None:
    """Raise UserError, naming some keys, unless both have the same keys and shapes.

    `what` names the weights that were given, `remedy` says what to do.
    """
    faults = {
        "missing": [key for key in own if key not in given],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [f"{key} {given[key]} instead of {own[key]}" for key in own if given.get(key, own[key]) != own[key]],
    }
    said = ", ".join(f"{len(keys)} {fault} ({some(keys)})" for fault, keys in faults.items() if keys)
    if said:
        raise UserError(f"The weights of {what} do not fit this model: {said}: {remedy}.", setting)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str, remedy: str, setting: str | None = None) -> None:
    """Give a module all of its weights; if they do not fit, it stays as it was and `check_fit` raises."""
    check_fit(shapes_of(module.state_dict()), shapes_of(state), what, remedy, setting)
    module.load_state_dict(state)


def some(keys: Iterable[str]) -> str:
    """The first keys, and how many more there are."""
    keys = list(keys)
    return ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
