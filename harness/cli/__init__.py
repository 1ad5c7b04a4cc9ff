"""The command line, `econ`: one file a command, and the options that commands share.

The top floor: nothing else asks it. Heavy imports wait until a command needs them, so that `--help` is quick.
"""

from harness.cli.app import main

__all__ = ["main"]
