"""What `econ list` prints: methods with their costs and hyperparameters, models, datasets and studies."""

import ast
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from data import DATASETS, TEXTS, dataset_names
from harness.catalogue import WIDTH
from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.method_expression import format_value
from harness.parsing.plugins import available_methods
from harness.studies.study_files import find_study, study_names
from harness.tuning.search_space import search_range
from methods import Method
from models import describe_architectures

Rows = list[tuple[str, str]]
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
COSTS = (
    "Costs are relative to plain training of one network; a pass is one over the training data, forward only. "
    "METHOD is any other method, whose own cost counts as 1. early_stopping also predicts the held-out data after each "
    "epoch."
)


def methods(plugins: Sequence[Path] = (), width: int = WIDTH) -> str:
    """Describe each method: its family and paper, what it does and costs, and its hyperparameters.

    A hyperparameter stands with its default, and with the range in which it is searched or the values that it may have.

    Args:
        plugins: plugin files with more methods.
        width: the number of characters in a line.

    Raises:
        ValueError: if a plugin holds no method.
        FileNotFoundError: if there is no such plugin.
    """
    blocks = [block(name, method, width) for name, method in available_methods(plugins).items()]
    return "\n\n".join([*blocks, textwrap.fill(COSTS, width)])


def block(name: str, method: type[Method], width: int) -> str:
    """Describe one method in a few lines."""
    about = method.about
    head, source = title(name, method), " · ".join(filter(None, (about.family, about.paper)))
    gap = max(width - len(head) - len(source), 2)
    lines = [f"{head}{' ' * gap}{source}".rstrip()]
    lines += textwrap.wrap(first_line(method.__doc__), width, initial_indent="    ", subsequent_indent="    ")
    if about.family:
        training, after, prediction = costs_by_default(method)
        costs = [f"training × {factor(training)}{passes(after)}", f"prediction × {factor(prediction)}"]
        if len(together := ", ".join(costs)) <= width - 4:
            costs = [together]
        for cost in costs:
            lines += textwrap.wrap(cost, width, initial_indent="    ", subsequent_indent="      ")
    known = {key: (kind, format_value(value)) for key, (kind, value) in hyperparameters(method).items() if key != "of"}
    left, right = max(map(len, known), default=0), max((len(value) for _, value in known.values()), default=0)
    for key, (kind, value) in known.items():
        values = f"search {search_range(method.space[key])}" if key in method.space else " or ".join(allowed(kind))
        lines.append(f"    {key:{left}} = {value:{right}}   {values}".rstrip())
    return "\n".join(lines)


def allowed(kind: Any) -> list[str]:
    """List the values that a type allows: the words of a `Literal`, the bounds of a number, or both for a union."""
    if get_origin(kind) is Literal:
        return list(map(format_value, get_args(kind)))
    bounds = []
    for note in getattr(kind, "__metadata__", ()):  # an Annotated type
        for bound in getattr(note, "metadata", ()):  # of a pydantic Field
            bounds += [
                f"{sign} {getattr(bound, name)}"
                for name, sign in SIGNS.items()
                if getattr(bound, name, None) is not None
            ]
    inner = [word for part in get_args(kind) if part is not Ellipsis for word in allowed(part)]
    return [*([" and ".join(bounds)] if bounds else []), *inner]


def methods_as_markdown(plugins: Sequence[Path] = ()) -> str:
    """Write the table of methods for the documents: what each does, its paper and its costs."""
    head = ["method", "what it does", "paper", "training cost", "prediction cost"]
    rows = [head, ["---"] * len(head)]
    for name, method in available_methods(plugins).items():
        about = method.about
        training, after, prediction = costs_by_default(method)
        costs = [f"{code(training)}{passes(after, code)}", code(prediction)] if about.family else []
        rows.append([f"`{title(name, method)}`", first_line(method.__doc__), about.paper, *(costs or ["–", "–"])])
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([*lines, "", COSTS])


def costs_by_default(method: type[Method]) -> list[str]:
    """Return the expressions of a method's costs. Conditions in them are decided by its default hyperparameters.

    Raises:
        ValueError: for a condition that its hyperparameters do not decide.
    """
    defaults = {key: value for key, (_, value) in hyperparameters(method).items()}

    class Decide(ast.NodeTransformer):
        def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
            test = compile(ast.Expression(node.test), method.__name__, "eval")
            try:
                decided = eval(test, {"__builtins__": {}}, defaults)
            except Exception as error:  # whatever a user's own expression raises
                raise ValueError(f"{method.__name__}.about: {ast.unparse(node)}: {error}") from error
            chosen: ast.expr = self.visit(node.body if decided else node.orelse)
            return chosen

    about = method.about
    return [
        ast.unparse(Decide().visit(ast.parse(expression, mode="eval")))
        for expression in (about.training, about.passes, about.prediction)
    ]


def title(name: str, method: type[Method]) -> str:
    """Write a method's name as a study does; what stands for the method it is made of is METHOD."""
    return f"{name}(METHOD)" if "of" in hyperparameters(method) else name


def factor(expression: str) -> str:
    """Write an expression so that it can follow a sign."""
    return expression if expression.isidentifier() or expression.isdecimal() else f"({expression})"


def code(expression: str) -> str:
    """Write an expression in Markdown; a number as it is."""
    return expression if expression.isdecimal() else f"`{expression}`"


def passes(expression: str, write: Callable[[str], str] = factor) -> str:
    """Say how many passes over the training data come after training, if any do."""
    return "" if expression == "0" else " + 1 pass" if expression == "1" else f" + {write(expression)} passes"


def models() -> Rows:
    """List the architectures."""
    return list(describe_architectures().items())


def datasets() -> Rows:
    """List the datasets."""
    loaders = [*DATASETS.values(), *TEXTS.values()]
    return [(name, first_line(load.__doc__)) for name, load in zip(dataset_names(), loaders, strict=True)]


def studies() -> Rows:
    """List the studies that come with the project, with what they cost, counted anew where they were edited."""
    from harness.planning.study_cost import count_cost, read_costs

    known = read_costs()
    rows = []
    for name in study_names():
        if name not in known:
            print(f"counting what {name} costs …", file=sys.stderr)
        cost = known.get(name) or count_cost(name)
        rows.append((name, f"{first_line(find_study(name).read_text(encoding='utf-8'))}\n[{cost}]"))
    return [*rows, ("", GPU_HOURS)]


GPU_HOURS = (
    "GPU-hours of training are estimates, as written and after sharing: 4.92 h for 200 epochs of WRN-28-10 on CIFAR-10 "
    "on a 2080 Ti (von Oswald et al. 2021, Table 17), all else in proportion to floating-point operations."
)

LISTINGS: dict[str, Callable[[], Rows]] = {"models": models, "datasets": datasets, "studies": studies}


def first_line(text: str | None) -> str:
    """Give the first line of a docstring or a comment."""
    return next(iter((text or "").strip().splitlines()), "").lstrip("# ")
