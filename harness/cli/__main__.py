"""`python -m harness.cli` is `econ`."""

from harness.cli import main

main()
