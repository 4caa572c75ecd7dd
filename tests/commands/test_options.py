"""A command computes with all that its device has; the library leaves the caller's choice alone."""

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from tests.application import call


def test_the_command_line_multiplies_on_tensor_cores_and_the_library_does_not_ask_for_them(diffusion_run: Path) -> None:
    script = (
        "import sys, torch; from pixelpath import cli, load; run = load(sys.argv[1], device='cpu'); run.sample(1, steps=1);"
        "assert torch.get_float32_matmul_precision() == 'highest';"
        "sys.argv = ['pixelpath', 'sample', sys.argv[1], '--count', '1', '--steps', '1', '--device', 'cpu']; cli.main();"
        "assert torch.get_float32_matmul_precision() == 'high'"
    )
    done = subprocess.run([sys.executable, "-c", script, diffusion_run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_flags_among_the_settings_of_a_choice_count(pictures: Path, tmp_path: Path) -> None:
    """True can be turned off, False on, beside other settings of the choice."""
    words = ["train", "digits-encoder", "--data", pictures, "--out", tmp_path / "run"]
    flags = ["--augmentation.rot90", "--augmentation.no-from-originals", "--augmentation.flip", 0.25]
    with patch("pixelpath.commands.train.begin") as begin:
        assert call(*words, *flags) == 0
    strength = begin.call_args.args[0].augmentation
    assert (strength.rot90, strength.from_originals, strength.flip) == (True, False, 0.25)
