"""What an optimizer keeps of its parameters, as named tensors and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.networks.weights import check_fit
from pixelpath.trainer.ema import unwrapped
from pixelpath.trainer.shard import shared_as


def names_of(student: nn.Module, optimizer: torch.optim.Optimizer) -> dict[Tensor, str]:
    """The names of the optimizer's parameters, in its own order."""
    names = {parameter: name for name, parameter in unwrapped(student).named_parameters()}
    return {parameter: names[parameter] for group in optimizer.param_groups for parameter in group["params"]}


def flattened(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's state as one level of tensors called <parameter>/<field>."""
    states = {name: optimizer.state.get(parameter, {}) for parameter, name in names.items()}
    return {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}


def restore_optimizer(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    known: Sequence[str],
    where: str,
    remedy: str,
) -> None:
    """Give the optimizer what `flattened` made of it; `known` are the parameters it had.

    Raises UserError if these, shapes, or what is kept of one differ.
    """
    names = names_of(student, optimizer)
    shapes = {name: tuple(parameter.shape) for parameter, name in names.items()}
    check_fit(dict.fromkeys(names.values(), ()), dict.fromkeys(known, ()), where, remedy)
    state: dict[int, dict[str, Tensor]] = {}
    places, parameters = {name: place for place, name in enumerate(names.values())}, dict(zip(names.values(), names, strict=True))
    for key, value in tensors.items():
        name, part = key.rsplit("/", 1)
        if value.ndim and tuple(value.shape) != shapes[name]:
            check_fit({name: shapes[name]}, {name: tuple(value.shape)}, where, remedy)
        kept = shared_as(value.clone(), parameters[name])  # torch keeps it, so it must not depend on the file
        state.setdefault(places[name], {})[part] = kept
    needed = [
        "momentum_buffer" if "momentum" in group else "exp_avg" for group in optimizer.param_groups for _ in group["params"]
    ]
    for name, place in places.items():
        if needed[place] not in state.get(place, {needed[place]: None}):
            raise UserError(
                f"{where} keeps what another optimizer needs of {name}, as older versions had: finish the run with the version "
                "that began it, or begin a new one with its weights (`init_from`)."
            )
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
