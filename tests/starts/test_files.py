"""A start comes back from its folder bit for bit, and a folder that is not one is said to be none."""

import json
import re
from pathlib import Path

import pytest
import torch

from pixelpath.atomic import read_json
from pixelpath.randomness import Streams, normal
from pixelpath.starts.files import FACTS, TENSORS, about, load, save
from pixelpath.starts.gaussian import Diagonal, Full, LowRank, fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.simple import FromSamples
from pixelpath.starts.start import Density, Saved
from pixelpath.starts.student import fit_student
from pixelpath.starts.tails import SymLog, fit_pareto_tail, symlog

IMAGES = torch.randn(40, 1, 2, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2]).repeat(20)
MANY = torch.randn(600, 1, 2, 3, generator=torch.Generator().manual_seed(1))

STARTS: dict[str, Saved] = {
    "full": fit_gaussian(IMAGES, form=Full()),
    "diagonal": fit_gaussian(IMAGES, LABELS, 3, form=Diagonal()),
    "low-rank": fit_gaussian(IMAGES, LABELS, 3, form=LowRank(2)),
    "mixture": fit_mixture(IMAGES, LABELS, 3, components=2, coordinates=3),
    "diagonal mixture": fit_mixture(IMAGES, components=2, coordinates=2, form=Diagonal()),
    "student": fit_student(MANY),
    "pareto-tail": fit_pareto_tail(MANY, fit_gaussian(MANY, form=Full())),
    "soft logarithm": SymLog(fit_gaussian(symlog(MANY), form=Full())),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_start_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    start = STARTS[name]
    save(start, tmp_path / "new" / "start", {"sigma": 1.5})
    again = load(tmp_path / "new" / "start")
    assert type(again) is type(start)
    assert isinstance(again, Saved)
    (metadata, tensors), (facts_again, tensors_again) = start.state(), again.state()
    assert facts_again == metadata
    assert tensors_again.keys() == tensors.keys()
    assert all(
        torch.equal(tensors_again[key], value) and tensors_again[key].dtype == value.dtype for key, value in tensors.items()
    )
    assert torch.equal(again.sample(Streams(range(5)), 0.7), start.sample(Streams(range(5)), 0.7))
    assert isinstance(again, Density) == isinstance(start, Density) == (name not in ("pareto-tail", "soft logarithm"))
    if isinstance(again, Density) and isinstance(start, Density):
        assert torch.equal(again.log_prob(IMAGES, 0.7), start.log_prob(IMAGES, 0.7))
        assert torch.equal(again.denoise(IMAGES, torch.tensor(0.7)), start.denoise(IMAGES, torch.tensor(0.7)))


def test_what_is_said_about_a_start_is_kept(tmp_path: Path) -> None:
    save(STARTS["low-rank"], tmp_path, {"sigma": 1.5, "run": "digits"})
    assert about(tmp_path) == {"sigma": 1.5, "run": "digits"}
    save(STARTS["full"], tmp_path)
    assert about(tmp_path) == {}
    assert type(load(tmp_path)) is type(STARTS["full"])
    assert sorted(file.name for file in tmp_path.iterdir()) == [FACTS, TENSORS]


def test_a_start_that_holds_a_function_cannot_be_saved(tmp_path: Path) -> None:
    start = FromSamples(lambda sources, labels: normal(sources, (1, 2, 3)))
    with pytest.raises(ValueError, match="FromSamples cannot be saved: save the model"):
        save(start, tmp_path / "start")
    assert not (tmp_path / "start").exists()


def test_folders_that_hold_no_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no start in .*nowhere, as start\.json is missing"):
        load(tmp_path / "nowhere")
    save(STARTS["full"], tmp_path)
    (tmp_path / TENSORS).write_bytes(b"short")
    with pytest.raises(ValueError, match=r"start\.safetensors cannot be used"):
        load(tmp_path)
    (tmp_path / TENSORS).unlink()
    with pytest.raises(ValueError, match=r"start\.safetensors cannot be used"):
        load(tmp_path)
    for text in ("{", "[]", '{"version": 1, "metadata": {}, "about": {}}'):
        (tmp_path / FACTS).write_text(text)
        with pytest.raises(ValueError, match=r"start\.json cannot be used .*: fit the start and save it again"):
            load(tmp_path)


def test_a_changed_digit_of_the_facts_is_noticed(tmp_path: Path) -> None:
    save(STARTS["full"], tmp_path, {"sigma": 12.5, "denoiser": "2f"})
    text = (tmp_path / FACTS).read_text()
    for match in re.finditer(r"\d", text):
        (tmp_path / FACTS).write_text(f"{text[: match.start()]}{(int(match[0]) + 1) % 10}{text[match.end() :]}")
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / FACTS))):
            load(tmp_path)


def test_facts_that_no_family_knows(tmp_path: Path) -> None:
    save(STARTS["full"], tmp_path)
    document = read_json(tmp_path / FACTS)
    document["metadata"]["family"] = "unheard"
    (tmp_path / FACTS).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"family 'unheard' is not known .*gaussian, mixture"):
        load(tmp_path)
    document["metadata"] = {"family": "mixture", "shape": [1, 2, 3], "num_classes": 0}
    (tmp_path / FACTS).write_text(json.dumps(document))
    with pytest.raises(ValueError, match="family 'mixture' is incomplete"):
        load(tmp_path)
