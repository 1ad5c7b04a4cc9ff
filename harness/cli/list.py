"""`econ list`: lists methods, models, datasets and studies."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from harness.cache.user_cache import entry_key, read_entry, write_entry
from harness.catalogue import WIDTH
from harness.cli.options import Plugins, Refusal, console, print_or_write


class Form(StrEnum):
    """How methods are listed."""

    text = "text"
    markdown = "markdown"


class Listing(StrEnum):
    """What can be listed."""

    methods = "methods"
    models = "models"
    datasets = "datasets"
    studies = "studies"


def list_(
    what: Listing,
    format: Annotated[Form, typer.Option(help="How methods are written.")] = Form.text,
    plugin: Plugins = None,
) -> None:
    """List the methods, with their hyperparameters and costs, or the models, datasets or studies there are."""
    if format is Form.markdown and what is not Listing.methods:
        raise Refusal("--format markdown: only methods are listed so")
    plugins = plugin or []
    width = min(console.width, WIDTH)
    key = entry_key("list", what, format, width, [str(path.resolve()) for path in plugins])
    listed = read_entry(key)
    if listed is None:
        listed, files, absent = describe(what, format, plugins, width)
        write_entry(key, listed, files, absent)
    if isinstance(listed, str):
        print_or_write(listed, None)
        return
    table = Table(show_header=False, box=None)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, description in listed:
        table.add_row(name, description)
    console.print(table)


def describe(
    what: Listing, format: Form, plugins: list[Path], width: int
) -> tuple[str | list[tuple[str, str]], list[Path], list[Path]]:
    """Return what is listed, the files it was read from, and those that would have been read, too, if they were there.

    Methods are listed as text, all else as the name and description of each.

    Raises:
        Refusal: for a plugin that cannot be loaded.
    """
    from harness.catalogue import listing
    from harness.parsing.plugins import absent_files, source_files

    if what is not Listing.methods:
        return listing.LISTINGS[what.value](), [], []
    try:
        text = listing.methods_as_markdown(plugins) if format is Form.markdown else listing.methods(plugins, width)
    except (ValueError, OSError) as error:
        raise Refusal(str(error)) from error
    return text, source_files(plugins), absent_files(plugins)
