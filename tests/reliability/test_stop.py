"""A command that Ctrl-C or SIGTERM stops says so in its last line, with the command that goes on, and leaves with status 130."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.reliability.harness import Command, Kind, Starter, differences, train

COMMANDS = {  # what is typed, and where its files are: at the third one it is stopped
    "sample": ("sample {digits-diffusion} --count 4 --device cpu", "digits-diffusion"),
    "evaluate": ("evaluate {digits-diffusion} --count 16 --device cpu", "digits-diffusion"),
    "probe": ("probe {digits-encoder} --device cpu", "digits-encoder"),
    "start": ("start fit {digits-diffusion} --device cpu", "digits-diffusion"),
    "export": ("export {digits-onestep} --format torch", "digits-onestep"),
    "report": ("report {digits-diffusion}", "digits-diffusion"),
    "audit": ("audit {pictures} --out {new}/audit", "pictures"),
    "import-official": ("import-official {weights} --out {new}/run --encoder-heads 4 --decoder-heads 4", "new"),
    "fit": ("fit {pictures} --out {new} --minutes 1 --device cpu", "new"),
    "distill": ("distill {digits-diffusion} --out {new} --images 40 --device cpu", "new"),
    "train": ("train digits-diffusion --data {pictures} --out {new}/run --device cpu", "pictures"),
}


@pytest.mark.parametrize("kind", ["interrupt", "terminate"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_stopped_says_how_to_go_on(
    name: str, kind: str, starter: Starter, kinds: dict[str, Kind], pictures: Path, parity: Path, tmp_path: Path
) -> None:
    places = {recipe: tmp_path / recipe for recipe in kinds} | {"new": tmp_path / "new"}
    places |= {"pictures": pictures, "weights": parity / "weights_epg.safetensors"}
    words, at = COMMANDS[name]
    for recipe, each in kinds.items():
        if f"{{{recipe}}}" in words:
            shutil.copytree(each.straight, places[recipe])
    typed = tuple(words.format(**places).split())
    (ended,) = starter.run(Command(typed, fault={"kind": kind, "at": 3, "within": str(places[at])}))
    last = ended.said.rstrip().splitlines()[-1]
    assert ended.status == 130, ended.said
    assert "Traceback" not in ended.said
    assert last.startswith(f"pixelpath: {name} was stopped")
    assert last.endswith(" ".join(["pixelpath", *typed]))


def test_a_run_that_is_stopped_saves_and_goes_on(
    starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    kind = kinds["digits-diffusion"]
    words = train(kind.recipe, pictures, tmp_path / "run", *kind.origin)
    for place, name in enumerate(("terminate", "interrupt")):
        fault = {"kind": name, "at": kind.operations // 2 + 10 * place, "within": str(tmp_path / "run")}
        (ended,) = starter.run(Command(words, fault=fault))
        assert ended.status in (0, 130), ended.said
        assert ("Stopped and saved at step" in ended.said) == (ended.status == 130)
    assert starter.run(Command(words))[0].status == 0
    steps = {f"checkpoints/step-{step:08d}" for step in (3, 6, 9)}
    assert not [name for name in differences(kind.straight, tmp_path / "run") if name.rpartition("/")[0] in steps]
