"""Method expressions, as studies contain them: `swa(late_phase_bn(K=5), start=0.8)`."""

import ast
import keyword
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from harness.parsing.hyperparameters import hyperparameters
from harness.parsing.plugins import source_digest
from harness.parsing.yaml_errors import suggest_closest
from methods import MakeMethod, Method
from methods.core.recipe import NO_NUMBER, FrozenModel, is_boolean_for_number

EXAMPLE = "swa(late_phase_bn(K=5), start=0.8)"
COUNT_HYPERPARAMETERS = ("K", "N", "M", "checkpoints", "points")
"""Hyperparameters that are numbers of members, samples or checkpoints."""
MOST_MEMBERS = 1000
"""Largest number of them."""
MOST_CHARACTERS, MOST_LEVELS = 1000, 50
"""Largest length and depth of an expression."""


class MethodSpec(FrozenModel):
    """A method, and its hyperparameters that differ from their defaults."""

    name: str
    hyperparameters: Mapping[str, Any] = Field(default_factory=dict)
    of: "MethodSpec | None" = None
    version: int = 1
    source: str | None = None
    """SHA-256 of the files of the plugin that names the method. An edited file therefore gives new runs."""

    def __str__(self) -> str:
        """Write the method as an expression."""
        inner = [str(self.of)] if self.of else []
        arguments = inner + [f"{name}={format_value(value)}" for name, value in self.hyperparameters.items()]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def make(self, methods: Mapping[str, type[Method]]) -> MakeMethod:
        """Return the constructor of the method with its hyperparameters."""
        arguments: dict[str, Any] = dict(self.hyperparameters)
        if self.of:
            arguments["of"] = self.of.make(methods)
        return partial(methods[self.name], **arguments)


def format_value(value: Any) -> str:
    """Write a value so that `parse_method` reads it back. An identifier needs no quotes."""
    # Only ASCII: Python normalizes some other letters in identifiers. Keywords are no identifiers.
    plain = isinstance(value, str) and value.isascii() and value.isidentifier() and not keyword.iskeyword(value)
    return str(value) if plain else repr(value)


def parse_method(text: str, methods: Mapping[str, type[Method]]) -> tuple[MethodSpec | None, list[str]]:
    """Parse a method expression and check every name and value.

    Args:
        text: the expression.
        methods: all methods by name.

    Returns:
        The spec (None if there are errors) and the messages of all errors.
    """
    if len(text) > MOST_CHARACTERS:
        return None, [f"an expression of {len(text):,} characters; it may have {MOST_CHARACTERS:,}"]
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return None, [f"{text!r} is not a method like {EXAMPLE}: {getattr(error, 'msg', error)}"]
    if depth(tree) > MOST_LEVELS:
        return None, [f"{text[:60]!r}…: more than {MOST_LEVELS} levels inside of each other"]
    errors: list[str] = []
    spec = parse_node(tree, methods, errors)
    return (None, errors) if errors else (spec, [])


def depth(tree: ast.AST) -> int:
    """Return how many levels a syntax tree has, without descending into it by recursion."""
    levels, nodes = 0, [tree]
    while nodes:
        levels, nodes = levels + 1, [child for node in nodes for child in ast.iter_child_nodes(node)]
    return levels


def parse_node(tree: ast.expr, methods: Mapping[str, type[Method]], errors: list[str]) -> MethodSpec | None:
    """Parse one node of an expression, and append messages to `errors`."""
    call = tree if isinstance(tree, ast.Call) else None
    head = call.func if call else tree
    if not isinstance(head, ast.Name):
        errors.append(f"{ast.unparse(tree)!r} is not a method like {EXAMPLE}")
        return None
    name = head.id
    if name not in methods:
        hint = suggest_closest(name, methods)
        own = "" if hint.startswith("did you mean") else "; --plugin, or `plugins` in a study, names files with others"
        errors.append(f"unknown method {name!r}; {hint}{own}")
        return None
    known = hyperparameters(methods[name])
    of = None
    if call and call.args:
        if "of" not in known:
            errors.append(f"{name} takes no other method")
        elif len(call.args) > 1:
            errors.append(f"{name} takes one other method, not {len(call.args)}")
        of = parse_node(call.args[0], methods, errors)
    # swa and swa(sgd) are the same. The spec holds a default only if more than plain training must be part of the key.
    same = [each for each, method in methods.items() if "of" in known and method is known["of"][1]]
    usual = [MethodSpec(name=n, version=methods[n].version, source=source_digest(methods, n)) for n in same]
    if usual and of in (None, usual[0]):
        of = None if usual[0] == MethodSpec(name="sgd") else usual[0]
    values: dict[str, Any] = {}
    for argument in call.keywords if call else []:
        key = argument.arg or "**"
        if key == "of" or key not in known:
            options = [option for option in known if option != "of"]
            errors.append(
                f"{name} has no hyperparameter {key!r}; "
                + (suggest_closest(key, options) if options else "it has none")
            )
            continue
        if key in values:
            errors.append(f"{name}: {key} is written twice")
        values[key] = parse_value(name, key, argument.value, known[key], errors)
    changed = {key: values[key] for key in known if key in values and values[key] != known[key][1]}
    version, source = methods[name].version, source_digest(methods, name)
    return MethodSpec(name=name, hyperparameters=changed, of=of, version=version, source=source)


def parse_value(method: str, name: str, node: ast.expr, known: tuple[Any, Any], errors: list[str]) -> Any:
    """Parse one value and check it against the hyperparameter's type.

    Args:
        method: name of the method, for messages.
        name: name of the hyperparameter.
        node: the value in the expression.
        known: type and default of the hyperparameter.
        errors: list to which a message is appended.

    Returns:
        The value; None if it is wrong.
    """
    try:
        value = node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
    except (ValueError, TypeError):
        errors.append(
            f"{method}: {name} = {ast.unparse(node)} is not a plain value; quote text that is not an identifier"
        )
        return None
    try:
        if is_boolean_for_number(value, known[0]):
            raise ValueError(NO_NUMBER)
        if name in COUNT_HYPERPARAMETERS and isinstance(value, int) and value > MOST_MEMBERS:
            raise ValueError(f"at most {MOST_MEMBERS:,}")
        config = ConfigDict(allow_inf_nan=False)
        return TypeAdapter(known[0], config=config).validate_python(value)
    except ValidationError as error:
        reasons = "; or ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
    except ValueError as error:
        reasons = str(error)
    except PydanticUserError:
        reasons = f"a study cannot write a {getattr(known[0], '__name__', known[0])}; leave it out"
    errors.append(f"{method}: {name} = {value!r}: {reasons}")
    return None
