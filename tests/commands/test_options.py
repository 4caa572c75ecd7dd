"""A command computes with all that its device has; the library leaves the caller's choice alone."""

import subprocess
import sys
from pathlib import Path


def test_the_command_line_multiplies_on_tensor_cores_and_the_library_does_not_ask_for_them(diffusion_run: Path) -> None:
    script = (
        "import sys, torch; from pixelpath import cli, load; run = load(sys.argv[1], device='cpu'); run.sample(1, steps=1);"
        "assert torch.get_float32_matmul_precision() == 'highest';"
        "sys.argv = ['pixelpath', 'sample', sys.argv[1], '--count', '1', '--steps', '1', '--device', 'cpu']; cli.main();"
        "assert torch.get_float32_matmul_precision() == 'high'"
    )
    done = subprocess.run([sys.executable, "-c", script, diffusion_run], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
