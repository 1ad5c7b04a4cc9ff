"""The command that lists methods, models, datasets and studies: list."""

from enum import StrEnum
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from harness.cli.options import Plugins, Refusal, console, show


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
    from harness.catalogue import listing

    if what is Listing.methods:
        try:
            if format is Form.markdown:
                show(listing.methods_as_markdown(plugin or []), None)
            else:
                show(listing.methods(plugin or [], min(console.width, listing.WIDTH)), None)
        except (ValueError, FileNotFoundError) as error:
            raise Refusal(str(error)) from error
        return
    if format is Form.markdown:
        raise Refusal("--format markdown: only methods are listed so")
    rows = listing.LISTINGS[what.value]()
    listed = Table(show_header=False, box=None)
    listed.add_column(overflow="fold")
    listed.add_column(overflow="fold")
    for name, description in rows:
        listed.add_row(escape(name), escape(description))
    console.print(listed)
