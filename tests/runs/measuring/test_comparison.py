"""What samples are compared with: real images of the right number, and the features of the encoder a run began with."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet, real_floor
from pixelpath.evaluation.features import Pixels, extract
from pixelpath.runs.measuring.comparison import Real, extractors, keep, kept, own_network, real_statistics
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(("samples", "few"), [(3, 3), (4, 4), (50, 4)])
def test_the_floor_takes_as_many_held_out_images_as_there_are_samples(diffusion_run: Path, samples: int, few: int) -> None:
    data = read_data_of(open_run(diffusion_run), None)
    real = Real(data)
    about, rows, others = real_statistics(Pixels(), real, samples, CPU)
    training, held_out = (extract(Pixels(), real.batches(side)) for side in (data.training, data.held_out))
    assert torch.equal(rows, training)
    assert others is not None
    assert torch.equal(others, held_out)
    assert (about.count, about.few) == (36, few)
    assert about.floor == pytest.approx(real_floor(training, few, held_out).distance, rel=1e-9)
    assert about.floor > 0
    assert frechet(about.statistics, statistics.of(training)) == pytest.approx(0, abs=1e-6)


def test_without_held_out_images_half_of_the_training_images_make_the_floor(plain_run: Path) -> None:
    data = read_data_of(open_run(plain_run), None)
    about, rows, others = real_statistics(Pixels(0.0, 10.0), Real(data), 50, CPU)
    assert others is None
    assert Real(data).few == about.few == 6
    assert about.floor == pytest.approx(real_floor(rows, 6).distance, rel=1e-9)


def test_the_encoder_is_found_by_way_of_the_run_whose_weights_were_taken(diffusion_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(diffusion_run, tmp_path / "run")
    opened = open_run(run)
    data = read_data_of(opened, None)
    (run / "origin.json").write_text(json.dumps({"encoder": "", "init_from": str(diffusion_run)}))
    by_way, own = (extractors(open_run(path), data, None) for path in (run, diffusion_run))
    assert [extractor.hash for extractor in by_way] == [extractor.hash for extractor in own]
    assert len(own) == 2
    for origin in ({"encoder": "", "start": ""}, {"encoder": str(tmp_path / "gone"), "start": ""}):
        (run / "origin.json").write_text(json.dumps(origin))
        assert len(extractors(opened, data, None)) == 1


def test_without_a_stage_one_the_runs_own_network_gives_features(plain_run: Path, diffusion_run: Path) -> None:
    """Its class token at the lowest level, of images in model range."""
    run = open_run(plain_run)
    data = read_data_of(run, None)
    (own,) = own_network(run, extractors(run, data, None))
    native = torch.randn(3, 2, 8, 12) + 5
    sigma = torch.tensor(run.noise.sigma_min * run.noise.shift)
    assert own.name == "own network"
    assert torch.equal(own(native), run.denoiser.features(run.normaliser.encode(native), sigma))
    other = open_run(diffusion_run)
    assert own_network(other, extractors(other, read_data_of(other, None), None)) == []


def test_results_are_kept_in_order(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert kept(path) == []
    keep(path, {"a": 1})
    keep(path, [2])
    assert kept(path) == [{"a": 1}, [2]]
    path.write_text("{")
    with pytest.raises(ValueError, match=r"results\.json is not JSON .* repair it or move it away"):
        keep(path, 3)
    assert path.read_text() == "{"
