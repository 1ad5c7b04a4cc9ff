"""Reads the files of a run folder that may be damaged: what cannot be used is named, and then taken for missing.

Files are written atomically, but disks fail, files are copied in part, and people edit them. One damaged file must not
keep a command from all other runs.
"""

import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Parts = Mapping[str, type | tuple[type, ...]]
"""The parts that a file must have, each with the type or types of its value."""
NUMBER = (int, float)
RESULT_PARTS: Parts = {"metrics": dict, "cost": dict, "timing": dict, "provenance": dict}
RUN_PARTS: Parts = {"key": str, **RESULT_PARTS, "members": dict, "spent": dict}
TRIAL_PARTS: Parts = {
    **RESULT_PARTS,
    "state": str,
    "reason": str,
    "value": (*NUMBER, type(None)),
    "plain_trainings": NUMBER,
}
FAILURE_PARTS: Parts = {"state": str, "reason": str, "time": NUMBER}
PROGRESS_PARTS: Parts = {
    **{"stage": str, "epoch": int, "epochs": int, "time": NUMBER},
    **{"host": str, "pid": int, "device": str, "unit": str, "pace": NUMBER},
}
EPOCH_PARTS: Parts = {"epoch": int, "time": NUMBER}
UNREADABLE = (errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers of what no second try can read: folders, links to themselves, files of others."""
LARGEST = 1e15
"""The largest number that a file may need, such as a time in seconds, or bytes."""
FLOAT_BITS = 1000
"""Bits of a whole number that is never too large for a float."""
TRIALS = "tuning/"
"""How the keys of trials begin."""
NAMED: set[str] = set()
"""What was said of damaged files: each is named once by a process."""


def say_damaged(path: Path, reason: str, consequence: str = "it is taken for missing") -> None:
    """Say on stderr, once, that a file is damaged, and what follows."""
    line = f"{path}: {reason}; {consequence}"
    if line not in NAMED:
        NAMED.add(line)
        print(line, file=sys.stderr)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; {} if it is missing, or if it is damaged, which is said on stderr."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        say_damaged(path, f"cannot be read as JSON ({error})")
        return {}
    except OSError as error:
        refuse_to_guess(error)
        say_damaged(path, f"cannot be read ({error})")
        return {}
    if not isinstance(found, dict):
        say_damaged(path, "holds no JSON object")
        return {}
    return found


def refuse_to_guess(error: OSError) -> None:
    """Raise an error again that may pass, such as that of a disk or of a file server: the file may be sound."""
    if error.errno not in UNREADABLE:
        raise error


def read_checked(path: Path, problem: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Read a JSON file; {} if it is missing, or if something is wrong with it, which is said on stderr.

    Args:
        path: the file.
        problem: returns what is wrong with its content; "" for nothing.
    """
    found = read_json(path)
    if not found:
        return {}
    if reason := problem(found):
        say_damaged(path, reason)
        return {}
    return found


def read_json_lines(path: Path, parts: Parts) -> Iterator[dict[str, Any]]:
    """Yield the values of a file of JSON lines; damaged lines are left out, which is said on stderr.

    Args:
        path: the file; it may be missing.
        parts: what each line must have. All its other values must be numbers.
    """
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        refuse_to_guess(error)
        say_damaged(path, f"cannot be read ({error})")
        return
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
            reason = missing_parts(found, parts) or not_numbers(found)
        except (ValueError, RecursionError) as error:
            reason = f"cannot be read as JSON ({error})"
        if reason:
            say_damaged(path, f"line {number} {reason}")
        else:
            yield found


def missing_parts(found: Any, parts: Parts) -> str:
    """Return which parts are missing or of a wrong type, as a phrase; "" for none."""
    if not isinstance(found, dict):
        return "holds no JSON object"
    bad = [
        name
        for name, kind in parts.items()
        if name not in found or not isinstance(found[name], kind) or is_out_of_range(found[name])
    ]
    return f"lacks {', '.join(bad)}" if bad else ""


def is_out_of_range(value: Any) -> bool:
    """Return whether a value is a number that nothing here can be, such as a time at the end of all time."""
    return isinstance(value, NUMBER) and not abs(value) < LARGEST


def not_numbers(found: Mapping[str, Any], also: tuple[type, ...] = ()) -> str:
    """Return which values are no numbers, as a phrase; "" for none.

    Args:
        found: values by name.
        also: other types that are allowed.
    """
    bad = [
        str(name)
        for name, value in found.items()
        if not isinstance(value, (*NUMBER, *also)) or (isinstance(value, int) and value.bit_length() > FLOAT_BITS)
    ]
    return f"has no number for {', '.join(bad)}" if bad else ""


def progress_problem(progress: Mapping[str, Any]) -> str:
    """Return what is wrong with the content of progress.json, as a phrase; "" for nothing."""
    optional = {"host": "", "pid": 0, "device": "", "unit": "", "pace": 0.0}
    return missing_parts(optional | dict(progress), PROGRESS_PARTS)


def result_problem(result: Mapping[str, Any], key: str) -> str:
    """Return what is wrong with a result, as a phrase; "" for nothing.

    Args:
        result: the content of result.json.
        key: the key of the run or trial in whose folder it lies.
    """
    trial = key.startswith(TRIALS)
    if problem := missing_parts(result, TRIAL_PARTS if trial else RUN_PARTS):
        return problem
    if not trial and result["key"] != key:
        return f"is the result of another run, {result['key'][:12]}"
    if missing_parts(result["timing"], {"finished": NUMBER}):
        return "lacks timing/finished"
    if not all(isinstance(result.get(name, ""), str) for name in ("evaluated_on", "chosen_on")):
        return "has no text that says on what it was evaluated"
    arrays = result.get("arrays", [])
    if not isinstance(arrays, list) or not all(isinstance(name, str) for name in arrays):
        return "has no list of names of arrays"
    if not all(isinstance(value, str) for value in result["provenance"].values()):
        return "has a provenance that is no text"
    numbers = [result["metrics"], result["cost"], result.get("spent", {})]
    curves = [dict(enumerate(c)) if isinstance(c, list) else c for c in result.get("members", {}).values()]
    if not all(isinstance(curve, dict) and all(str(k).isdecimal() for k in curve) for curve in curves):
        return "has curves over members that are no lists"
    problems = [not_numbers(values) for values in (*numbers, *curves)]
    return next(filter(None, [*problems, not_numbers(result["timing"], (type(None),))]), "")
