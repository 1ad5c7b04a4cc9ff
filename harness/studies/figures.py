"""The figures that a study requests: the plot, its options and the cells that it shows."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.parsing.yaml_errors import Errors, suggest_closest
from harness.studies.grid import CellGroup
from harness.studies.metric_names import check_metric, metric_names
from methods.core.recipe import FrozenModel

Labels = Annotated[tuple[str, ...], Field(min_length=1)]
RELATIVE = ("train_cost", "train_time", "predict_cost")
"""Costs relative to plain training, by which a plot may rank in addition to metrics."""


class FigureRequest(FrozenModel):
    """A figure that a study requests. All other keys are options of the plot.

    Attributes:
        plot: name of the plot in `analysis.FIGURES`, whose keyword arguments are the options.
        name: suffix of the file name, if a study has several figures: letters, digits, "_", "." and "-".
        methods: labels of the methods to show, in this order; None for all.
        datasets: names or labels of the datasets to show; None for all.
        architectures: architectures to show; None for all.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    plot: str
    name: Annotated[str, Field(pattern=r"^[\w.-]*$")] = ""
    methods: Labels | None = None
    datasets: Labels | None = None
    architectures: Labels | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the plot's function."""
        return dict(self.model_extra or {})

    def select_groups(self, groups: Sequence[CellGroup]) -> tuple[int, ...]:
        """Return the indices of the cell groups that the figure shows, in the order of `methods`.

        Raises:
            ValueError: if the study has no method, dataset or architecture of a requested name.
        """
        labels = list(dict.fromkeys(group.entry.label for group in groups))
        names = {name: None for group in groups for name in (group.dataset.name, group.dataset.label)}
        architectures = dict.fromkeys(group.architecture for group in groups)
        for asked, known in ((self.methods, labels), (self.datasets, names), (self.architectures, architectures)):
            for name in asked or ():
                if name not in known:
                    raise ValueError(f"the study has no {name!r}; {suggest_closest(name, known)}")
        order = list(self.methods or labels)
        chosen = [
            i
            for i, group in enumerate(groups)
            if group.entry.label in order
            and (self.datasets is None or {group.dataset.name, group.dataset.label} & set(self.datasets))
            and (self.architectures is None or group.architecture in self.architectures)
        ]
        return tuple(sorted(chosen, key=lambda i: order.index(groups[i].entry.label)))


def check_figures(requests: Sequence[FigureRequest], groups: Sequence[CellGroup], errors: Errors) -> None:
    """Report figures with unknown cells, unknown plots or wrong options, and repeated names."""
    for i, request in enumerate(requests):
        try:
            request.select_groups(groups)
        except ValueError as error:
            errors.add(("figures", i), str(error))
        if request.name in (other.name for other in requests[:i]):
            errors.add(("figures", i), f"there is a figure of the name {request.name!r} already")
        for option, message in option_errors(request, groups):
            errors.add(("figures", i, option), message)


def option_errors(request: FigureRequest, groups: Sequence[CellGroup]) -> list[tuple[str, str]]:
    """Return the errors in a figure's plot and options, each as a key and a message."""
    from analysis import FIGURES  # imports matplotlib, which only studies with figures need

    if request.plot not in FIGURES:
        return [("plot", f"there is no plot {request.plot!r}; {suggest_closest(request.plot, FIGURES)}")]
    draw = FIGURES[request.plot]
    _, *parameters = inspect.signature(draw).parameters.values()  # without the runs
    hints = get_type_hints(draw)
    known = {parameter.name: hints[parameter.name] for parameter in parameters}
    wrong = []
    for name in (each.name for each in parameters if each.default is each.empty):
        if name not in request.options:
            wrong.append(("plot", f"plot {request.plot} needs the option {name!r}; {describe_options(known)}"))
    for name, value in request.options.items():
        if name not in known:
            wrong.append((name, f"plot {request.plot} has no option {name!r}; {describe_options(known, name)}"))
        elif reason := value_error(name, value, known[name], groups):
            wrong.append((name, f"plot {request.plot}: {name} = {value!r}: {reason}; {describe_options(known)}"))
    return wrong


def describe_options(known: dict[str, Any], name: str = "") -> str:
    """List the options of a plot, with a hint for an unknown option name."""
    return suggest_closest(name, known) if known else "it has none"


def value_error(name: str, value: object, kind: Any, groups: Sequence[CellGroup]) -> str:
    """Return what is wrong with an option's value; "" if it is valid.

    Args:
        name: name of the option. The values of `metrics` and `by` must be metrics.
        value: value in the file.
        kind: type of the option.
        groups: cell groups of the study.
    """
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
        if value is not None and name in ("metrics", "by"):
            known = [*metric_names(groups), *(RELATIVE if name == "by" else ())]
            for metric in [value] if isinstance(value, str) else TypeAdapter(list[str]).validate_python(value):
                check_metric(metric, known)
    except ValidationError as error:
        return "; or ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
    except ValueError as error:
        return str(error)
    return ""
