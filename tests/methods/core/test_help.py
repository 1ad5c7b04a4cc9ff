"""What `help(Method)` shows is ours first: the rules, and every hook that a method may override."""

import pydoc

from methods import METHODS, Method, Wrapper


def test_help_begins_with_the_rules_and_every_hook():
    shown = pydoc.plain(pydoc.render_doc(Method)).partition("inherited from torch")[0]
    for name in ("Create all parameters and buffers in `__init__`", "help(About)", "help(Need)", *hooks()):
        assert name in shown, name


def hooks():
    """Give the names that a built-in method or wrapper overrides."""
    overridden = {name for method in (Wrapper, *METHODS.values()) for name in vars(method) if name in vars(Method)}
    return sorted(name for name in overridden if not name.startswith("_"))
