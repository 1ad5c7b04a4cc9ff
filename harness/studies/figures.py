"""The figures that a study asks for: which plot, with which options, of which of its cells."""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from harness.parsing.method_expression import closest
from harness.parsing.yaml_errors import Errors
from harness.studies.grid import Place
from harness.studies.metric_names import check_metric, metric_names
from methods.core.recipe import FrozenModel

Labels = Annotated[tuple[str, ...], Field(min_length=1)]
RELATIVE = ("train_cost", "train_time", "predict_cost")
"""What a plot may rank by besides: the costs of runs, where those of plain training are 1."""


class Drawing(FrozenModel):
    """One figure of a study; what stands besides these keys are the plot's own options.

    Attributes:
        plot: which one; `analysis.FIGURES` has their names, and their options as keyword arguments.
        name: at the end of the file's name, where a study has several figures: letters, digits, "_", "." and "-".
        methods: labels of the entries that are drawn, in this order; None for all.
        datasets: names or labels of theirs; None for all.
        architectures: theirs; None for all.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    plot: str
    name: Annotated[str, Field(pattern=r"^[\w.-]*$")] = ""
    methods: Labels | None = None
    datasets: Labels | None = None
    architectures: Labels | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the plot's function is given besides the runs."""
        return dict(self.model_extra or {})

    def choose(self, places: Sequence[Place]) -> tuple[int, ...]:
        """Give the numbers of the places of a study that are drawn, in the order of `methods`.

        Raises:
            ValueError: for a name that the study does not have.
        """
        labels = list(dict.fromkeys(place.entry.label for place in places))
        names = {name: None for place in places for name in (place.dataset.name, place.dataset.label)}
        architectures = dict.fromkeys(place.architecture for place in places)
        for asked, known in ((self.methods, labels), (self.datasets, names), (self.architectures, architectures)):
            for name in asked or ():
                if name not in known:
                    raise ValueError(f"the study has no {name!r}; {closest(name, known)}")
        order = list(self.methods or labels)
        chosen = [
            i
            for i, place in enumerate(places)
            if place.entry.label in order
            and (self.datasets is None or {place.dataset.name, place.dataset.label} & set(self.datasets))
            and (self.architectures is None or place.architecture in self.architectures)
        ]
        return tuple(sorted(chosen, key=lambda i: order.index(places[i].entry.label)))


def check_drawings(drawings: Sequence[Drawing], places: Sequence[Place], errors: Errors) -> None:
    """Report figures of what the study does not have, of no plot or with wrong options, and two of one name."""
    for i, drawing in enumerate(drawings):
        try:
            drawing.choose(places)
        except ValueError as error:
            errors.add(("figures", i), str(error))
        if drawing.name in (other.name for other in drawings[:i]):
            errors.add(("figures", i), f"there is a figure of the name {drawing.name!r} already")
        for option, message in wrong_options(drawing, places):
            errors.add(("figures", i, option), message)


def wrong_options(drawing: Drawing, places: Sequence[Place]) -> list[tuple[str, str]]:
    """List what is wrong with a figure's plot and options: the key, and the reason."""
    from analysis import FIGURES  # imports matplotlib, which only studies with figures need

    if drawing.plot not in FIGURES:
        return [("plot", f"there is no plot {drawing.plot!r}; {closest(drawing.plot, FIGURES)}")]
    draw = FIGURES[drawing.plot]
    _, *parameters = inspect.signature(draw).parameters.values()  # without the runs
    hints = get_type_hints(draw)
    known = {parameter.name: hints[parameter.name] for parameter in parameters}
    wrong = []
    for name in (each.name for each in parameters if each.default is each.empty):
        if name not in drawing.options:
            wrong.append(("plot", f"plot {drawing.plot} needs the option {name!r}; {options_of(known)}"))
    for name, value in drawing.options.items():
        if name not in known:
            wrong.append((name, f"plot {drawing.plot} has no option {name!r}; {options_of(known, name)}"))
        elif reason := wrong_value(name, value, known[name], places):
            wrong.append((name, f"plot {drawing.plot}: {name} = {value!r}: {reason}; {options_of(known)}"))
    return wrong


def options_of(known: dict[str, Any], name: str = "") -> str:
    """Say which options a plot has, the closest to a name first."""
    return closest(name, known) if known else "it has none"


def wrong_value(name: str, value: object, kind: Any, places: Sequence[Place]) -> str:
    """Say what is wrong with an option's value; "" for nothing.

    Args:
        name: of the option; `metrics` and `by` name metrics.
        value: as the file has it.
        kind: its type.
        places: of the study.
    """
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
        if value is not None and name in ("metrics", "by"):
            known = [*metric_names(places), *(RELATIVE if name == "by" else ())]
            for metric in [value] if isinstance(value, str) else TypeAdapter(list[str]).validate_python(value):
                check_metric(metric, known)
    except ValidationError as error:
        return "; or ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
    except ValueError as error:
        return str(error)
    return ""
