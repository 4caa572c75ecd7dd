"""Inception features and scores; with random weights, and against torch-fidelity itself, where that is installed."""

import importlib.util
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.refusal import refused
from torch import nn

from pixelpath.evaluation import inception as module
from pixelpath.evaluation.distances import frechet_of_sets, kernel, precision_recall
from pixelpath.evaluation.features import extract, hash_of
from pixelpath.evaluation.inception import (
    AllInception,
    adm_parts,
    fidelity_parts,
    inception,
    inception_score,
)

fidelity = pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="needs the extra 'metrics'")


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, torch.Tensor]]]:
    """Weights under which features of unlike images differ."""

    class Blank(module._module().FeatureExtractorInceptionV3):
        """Keeps the random weights it is born with."""

        def load_state_dict(self, *_: Any, **__: Any) -> None: ...

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "none.pth")
    torch.manual_seed(0)
    network = Blank("blank", ["2048"], feature_extractor_weights_path=str(folder / "none.pth"))
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    torch.save(network.state_dict(), folder / "weights.pth")
    yield folder / "weights.pth", network.state_dict()
    (folder / "weights.pth").unlink()


@fidelity
def test_all_outputs_are_those_of_the_network(random_weights: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = random_weights
    extractor = inception(path)
    gray = torch.randint(0, 255, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    everything = AllInception(extractor)
    pool, logits, spatial = everything.parts(extract(everything, [gray]))
    assert extractor.hash == hash_of(state)
    torch.testing.assert_close(pool, extractor(gray.repeat(1, 3, 1, 1)))
    torch.testing.assert_close(logits, pool @ state["fc.weight"].T)
    assert (pool[0] - pool[1]).abs().max() > 1e-3 * pool.abs().max()
    seen: list[Any] = []
    hook = extractor.network.get_submodule("Mixed_6d").register_forward_hook(lambda module, given, out: seen.append(out))
    extractor(gray)
    hook.remove()
    assert spatial.shape == (2, 7 * 17 * 17)
    torch.testing.assert_close(spatial.reshape(2, 17, 17, 7), seen[0][:, :7].permute(0, 2, 3, 1))  # ADM's order: channels last


@fidelity
def test_wrong_weights_and_missing_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"some": torch.zeros(1)}, tmp_path / "wrong.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("wrong.pth", "text.pth"):
        with refused("inception", tmp_path / name, module._module().URL_INCEPTION_V3):
            inception(tmp_path / name)
    with refused("inception", "absent.pth"):
        inception(tmp_path / "absent.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with refused("inception", tmp_path / "checkpoints", "https://"):  # and nothing is downloaded
        inception()
    assert not (tmp_path / "checkpoints").exists()


@fidelity
def test_weights_in_the_cache_of_torch_are_found(
    random_weights: tuple[Path, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / module.FILES[1]).symlink_to(random_weights[0])
    assert inception().hash == hash_of(random_weights[1])


def test_torch_fidelity_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused(None, "pip install 'pixelpath[metrics]'"):
        inception()


@fidelity
def test_inception_needs_no_torchvision_and_leaves_no_half_imported_package() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from pixelpath.evaluation.inception import _module\n"
        "assert _module().URL_INCEPTION_V3.endswith('.pth')\n"
        "assert not [name for name in sys.modules if name.startswith('torch_fidelity')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_score_of_certain_and_of_uncertain_predictions() -> None:
    certain = 100 * torch.eye(4).repeat(25, 1)  # 4 classes, each certain and equally frequent
    assert inception_score(certain, [np.arange(100)]).mean == pytest.approx(4)
    assert inception_score(torch.zeros(100, 4), fidelity_parts(100)).mean == pytest.approx(1)
    first, second = torch.tensor([3.0, 1.0]).log(), torch.tensor([1.0, 1.0]).log()
    shares = np.array([[0.75, 0.25], [0.5, 0.5]])
    expected = math.exp((shares * np.log(shares / shares.mean(0))).sum(1).mean())
    found = inception_score(torch.stack([first, second, first, second]), [np.array([0, 1]), np.array([3, 2])])
    assert (found.mean, found.std) == (pytest.approx(expected), pytest.approx(0, abs=1e-12))
    with refused(None, 5):
        inception_score(torch.zeros(5, 4), fidelity_parts(5))
    with refused(None, "logits are not finite"):
        inception_score(torch.full((5, 4), torch.nan), [np.arange(5)])


def test_the_parts_of_both_conventions() -> None:
    assert [len(part) for part in adm_parts(12_000)] == [5000, 5000, 2000]
    assert adm_parts(12_000)[2][0] == 10_000
    parts = fidelity_parts(25)
    assert sorted(np.concatenate(parts).tolist()) == list(range(25))
    assert {len(part) for part in parts} == {2, 3}


@fidelity
def test_numbers_agree_with_torch_fidelity() -> None:
    """On the same features: FID, KID over drawn subsets, precision and recall, the Inception Score."""
    code = (
        "import sys, types, torch, numpy as np, json\n"
        "sys.modules['torchvision'] = stub = types.ModuleType('torchvision')\n"
        "from importlib.util import find_spec, module_from_spec\n"
        "sys.modules['torch_fidelity'] = module_from_spec(find_spec('torch_fidelity'))\n"
        "sys.modules['torch_fidelity.utils'] = utils = types.ModuleType('torch_fidelity.utils')\n"
        "utils.__getattr__ = lambda name: None\n"
        "from torch_fidelity.metric_fid import fid_features_to_statistics as of, fid_statistics_to_metric as fid\n"
        "from torch_fidelity.metric_kid import kid_features_to_metric as kid\n"
        "from torch_fidelity.metric_prc import prc_features_to_metric as prc\n"
        "from torch_fidelity.metric_isc import isc_features_to_metric as isc\n"
        "a, b = (torch.from_numpy(np.load(name)) for name in sys.argv[1:])\n"
        "found = fid(of(a), of(b), False)\n"
        "found |= kid(a, b, kid_subset_size=80, verbose=False) | prc(a, b, verbose=False) | isc(a)\n"
        "print(json.dumps(found))\n"
    )
    import json
    import tempfile

    source = torch.Generator().manual_seed(1)
    first, second = (torch.randn(count, 24, generator=source, dtype=torch.float64) for count in (150, 200))
    second = second * 1.2 + 0.1
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}.npy" for name in "ab"]
        for name, rows in zip(names, (first, second), strict=True):
            np.save(name, rows.numpy())
        said = subprocess.run([sys.executable, "-c", code, *names], check=True, capture_output=True, text=True).stdout
    theirs = json.loads(said.splitlines()[-1])
    spread, manifold = kernel(first, second, size=80), precision_recall(second, first)
    score = inception_score(first, fidelity_parts(len(first)))
    ours = {
        "frechet_inception_distance": frechet_of_sets(first, second),
        "kernel_inception_distance_mean": spread.mean,
        "kernel_inception_distance_std": spread.std,
        "precision": manifold.precision,
        "recall": manifold.recall,
        "inception_score_mean": score.mean,
        "inception_score_std": score.std,
    }
    assert {name: theirs[name] for name in ours} == pytest.approx(ours, rel=1e-5)
