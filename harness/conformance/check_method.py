"""Checks methods and the compositions that users will make of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.conformance.construction import check_construction, check_declarations
from harness.conformance.costs import check_counted_work, check_declared_costs
from harness.conformance.finding import Finding, describe_error, failures
from harness.conformance.fresh_process import FreshProcess, fingerprint
from harness.conformance.overrides import check_overrides
from harness.conformance.prediction import check_members, check_prediction, check_preparation
from harness.conformance.ranks import check_division
from harness.conformance.sharing import check_fusing, check_prediction_hyperparameters, check_prepared, check_trunk
from harness.conformance.small_run import NETWORKS, RECIPE, Case, SmallRun, one_thread
from harness.conformance.training import check_copies, check_criterion, check_rate, check_repetition, check_structure
from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.method_expression import MethodSpec, parse_method
from harness.parsing.plugins import available_methods, load_plugin
from methods import Method
from methods.core.weight_averaging import AverageInVainError

AROUND = ("swa({})", "swag({}, start=0.5, N=3)", "snapshot({}, M=2)", "early_stopping({})", "deep_ensemble({}, K=2)")
"""Compositions with which a method that trains is checked."""
INSIDE = ("late_phase_bn(K=2, start=0.5)", "swa", "early_stopping", "deep_ensemble(K=2)")
"""Methods inside of which a wrapper is checked, besides its default."""
BROKEN = "a hook must also work on a new instance, and after any epoch; mend what is said above first, if anything is"
COMPOSED_ON = "wrn-10-1"
"""The network on which compositions are checked, unless the method refuses it."""


class Row(NamedTuple):
    """What was found of one method on one network.

    Attributes:
        expression: the method.
        network: the architecture.
        findings: what was found; empty if all is well.
        refused: the message with which the method refuses to be built so; "" if it does not.
    """

    expression: str
    network: str
    findings: list[Finding]
    refused: str = ""


def check_methods(
    expressions: Sequence[str], methods: Mapping[str, type[Method]], plugins: Sequence[Path] = ()
) -> Iterator[Row]:
    """Check each method on every network, and its compositions on one.

    Args:
        expressions: method expressions, such as `my_method(K=3)`.
        methods: all methods by name.
        plugins: the plugin files, from which another process builds the methods too; none to start no process.

    Yields:
        The findings, row by row, as they are found.

    Raises:
        ValueError: if an expression names no method, or a hyperparameter that does not exist.
    """
    specs = [parse(expression, methods) for expression in expressions]
    with one_thread():
        for expression, spec in zip(expressions, specs, strict=True):
            process = FreshProcess(plugins, expression, NETWORKS[0]) if plugins else None
            rows = [
                check_case(Case(spec, methods, network), process if i == 0 else None)
                for i, network in enumerate(NETWORKS)
            ]
            if process:
                process.end()
            if all(row.refused for row in rows):
                reason = f"it cannot be built for a training of {RECIPE.epochs} epochs: {rows[0].refused}"
                remedy = f"give an expression that can, as in {spec.name}(…)"
                rows[0] = rows[0]._replace(findings=[Finding("construction", reason, remedy)], refused="")
                yield rows[0]
                continue
            yield from rows
            if any(failures(row.findings) for row in rows):
                continue  # its compositions would fail likewise
            network = next(row.network for row in sorted(rows, key=prefer) if not row.refused)
            trains = Case(spec, methods, network).start().method.epochs > 0
            for composed in compositions(expression, spec, methods, trains=trains):
                yield check_case(Case(parse(composed, methods), methods, network))


def prefer(row: Row) -> bool:
    """Sort the row of the network on which compositions are checked before others."""
    return row.network != COMPOSED_ON


def check_plugin(plugin: Path, *expressions: str) -> list[str]:
    """Check methods of a plugin file, as `econ check-method` does, and return the failures, a line each.

    Args:
        plugin: the file.
        expressions: the methods to check, as in "my_method(K=3)"; none: all of the file.
    """
    asked = expressions or list(load_plugin(plugin))
    methods = available_methods([plugin])
    return [
        f"{row.expression} on {row.network}: {finding.check}: {finding.reason}"
        for row in check_methods(asked, methods, [plugin])
        for finding in failures(row.findings)
    ]


def parse(expression: str, methods: Mapping[str, type[Method]]) -> MethodSpec:
    """Read a method expression.

    Raises:
        ValueError: with all of its errors.
    """
    spec, errors = parse_method(expression, methods)
    if spec is None:
        raise ValueError("; ".join(errors))
    return spec


def compositions(expression: str, spec: MethodSpec, methods: Mapping[str, type[Method]], *, trains: bool) -> list[str]:
    """Return the compositions with which a method is checked; all but the last need one that trains a network."""
    around = [form.format(expression) for form in AROUND[0 if trains else -1 :]]
    if "of" not in hyperparameters(methods[spec.name]) or spec.of is not None:
        return around
    name, _, rest = expression.partition("(")
    arguments = f", {rest}" if rest else ")"
    return [f"{name}({inner}{arguments}" for inner in INSIDE] + around


def check_case(case: Case, process: FreshProcess | None = None) -> Row:
    """Check one method on one network.

    Args:
        case: the method and the network.
        process: trains the same in another process; None to compare with none.
    """
    expression = str(case.spec)
    try:
        small = case.start()
    except ValueError as error:
        return Row(expression, case.architecture, [], str(error))
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        return Row(expression, case.architecture, [unbuilt(case, error)])
    try:
        whole = case.trained(record=True)
    except AverageInVainError as error:
        return Row(expression, case.architecture, [], str(error))
    except (Exception, SystemExit) as error:
        return Row(expression, case.architecture, [unbuilt(case, error)])
    findings: list[Finding] = []
    for name, check in checks_of(case, small, whole):
        try:
            findings += check
        except (Exception, SystemExit) as error:
            findings.append(Finding(name, f"the check ends with {describe_error(error)}", BROKEN))
        if any(found.check == "structure" for found in failures(findings)):
            process = None
            break  # no checkpoint fits such a method: the other checks would say so in other words
    if process is not None:
        findings += process.compare(fingerprint(whole))
    return Row(expression, case.architecture, list(dict.fromkeys(findings)))


def unbuilt(case: Case, error: Exception | SystemExit) -> Finding:
    """Return what a method is told that fails before it can be checked."""
    reason = f"it does not train on {case.architecture}: {describe_error(error)}"
    if isinstance(error, TypeError) and "argument" in str(error):
        return Finding("training", reason, "make hyperparameters keyword-only arguments of __init__ with defaults")
    return Finding(
        "training", reason, "if it needs what this network lacks, raise a ValueError in __init__ that says so"
    )


def checks_of(case: Case, small: SmallRun, whole: SmallRun) -> Iterator[tuple[str, Iterator[Finding]]]:
    """Yield the checks of a method by name; each is carried out when it is iterated over.

    Args:
        case: the method and the network.
        small: the method before training.
        whole: the method trained and prepared for prediction.
    """
    yield "declarations", check_declarations(case)
    yield "construction", check_construction(case, small)
    yield "structure", check_structure(case, whole)
    yield "prediction", check_prediction(case, whole)
    yield "members", check_members(case, whole)
    yield "repetition", check_repetition(case, whole)
    yield "preparation", check_preparation(case, whole)
    yield "costs", check_counted_work(case, whole)
    yield "costs", check_declared_costs(case, whole)
    if small.optimizer is not None:
        yield "loss", check_criterion(case)
        yield "lr", check_rate(case)
        yield "ranks", check_division(case, whole)
        yield "sharing", check_trunk(case, whole)
        yield "sharing", check_prepared(whole)
        yield "sharing", check_prediction_hyperparameters(case, whole)
        yield "fusing", check_fusing(case, whole)
        yield "watch", check_copies(case)
        yield "hooks", check_overrides(case)
