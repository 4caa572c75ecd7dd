"""What a run would cost, from its networks and three real steps."""

from __future__ import annotations

import statistics

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from pixelpath.commands.prepare import Data, batches, new_student, precision_of, say
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import objective_through, representation_of
from pixelpath.recipes.recipe import Recipe
from pixelpath.training.average import twin
from pixelpath.training.journal import peak_memory
from pixelpath.training.loop import distribute, loss_scaler, train

MEASURED = 3


def dry_run(recipe: Recipe, data: Data, device: torch.device) -> None:
    """Say parameters, multiply-adds per image, tokens, memory, and steps per second; writes nothing."""
    student = new_student(recipe, data, None, None)
    count = sum(parameter.numel() for parameter in student.parameters())
    tokens = 2 + (data.shape[1] // recipe.patch) * (data.shape[2] // recipe.patch)
    say(f"{recipe.name}: {count / 1e6:.2f} M parameters, {tokens} tokens an image.")
    work = multiply_adds(student, data.shape) / 1e9
    say(f"One evaluation of one image: {work:.3g} G multiply-adds (matrix products and convolutions).")
    say(f"Weights, gradients, average and the optimizer's moments: {20 * count / 2**30:.2g} GiB in float32, without activations.")
    seconds = statistics.median(three_steps(recipe, data, device, student))
    rates = f"{1 / seconds:.3g} steps/s, {recipe.batch_size / seconds:.0f} images/s"
    place = "of the device" if device.type == "cuda" else "of the process"
    say(f"Three real steps of {recipe.batch_size} images on {device}: {rates};")
    whole = tqdm.format_interval(recipe.steps * seconds)
    say(f"peak memory {place} {peak_memory(device) / 2**30:.2f} GiB; all {recipe.steps:,} steps would take {whole},")
    say("without previews, held-out measurements and checkpoints, of which a run makes ten unless --every says otherwise.")


def multiply_adds(student: Representation | Denoiser, shape: tuple[int, int, int]) -> float:
    """Multiply-adds of one evaluation of one image, counted by torch (half its floating-point operations)."""
    device = next(student.parameters()).device
    counter = FlopCounterMode(display=False)
    mode = student.training
    student.eval()
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # torch counts nothing for its attention kernel on a CPU
        student(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    student.train(mode)
    return counter.get_total_flops() / 2


def three_steps(recipe: Recipe, data: Data, device: torch.device, student: nn.Module) -> list[float]:
    """Seconds of three real steps after one to warm up; an eager student, so a compiled run is faster."""
    student = student.to(device)
    stand_in = representation_of(recipe, data.shape).to(device) if recipe.needs_encoder else None
    steps = train(
        distribute(student),
        twin(student),
        objective_through(recipe, stand_in),
        recipe.optimizer.build(student),
        recipe.schedule,
        batches(recipe, data, device, 0),
        first=0,
        steps=1 + MEASURED,
        average_rate=recipe.average_rate,
        seed=recipe.seed,
        precision=precision_of(recipe, device),
        accumulate=recipe.accumulate,
        scaler=loss_scaler(precision_of(recipe, device), device),
    )
    return [step.seconds for step in steps][1:]
