"""What a check found."""

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from harness.parsing.plugin_sources import is_users_file


class Finding(NamedTuple):
    """Something that a check found.

    Attributes:
        check: the name of the check.
        reason: what was found.
        remedy: what to do.
        level: a "failure" gives wrong numbers or none; a "warning" is likely not what was meant; a "note" is handled by
            the harness, or refused when it matters.
    """

    check: str
    reason: str
    remedy: str = ""
    level: Literal["failure", "warning", "note"] = "failure"


def describe_error(error: BaseException) -> str:
    """Describe an error, with the last line of the user's own code that it passed through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{where}"


def failures(findings: Iterable[Finding]) -> list[Finding]:
    """Return those findings that are failures."""
    return [finding for finding in findings if finding.level == "failure"]
