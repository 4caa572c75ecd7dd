"""`python -m pixelpath`, and `torchrun -m pixelpath`: the command line."""

from pixelpath.cli import main

main()
