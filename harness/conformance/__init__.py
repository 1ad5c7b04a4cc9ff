"""Checks that a method keeps what `Method` asks for, by training it on a very small task.

The command `econ check-method` and the tests of methods run them. `check_plugin` checks the methods of a file.
"""

from harness.conformance.check_method import check_plugin

__all__ = ["check_plugin"]
