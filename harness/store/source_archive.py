"""Keeps with a run the files of the plugins that its method comes from, as source.zip: the run can be made again."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from harness.parsing.method_expression import MethodSpec
from harness.parsing.plugins import Methods, available_methods, source_digest
from harness.store.run_folder import RunFolder, write_atomically
from methods import Method


def save_sources(folder: RunFolder, method: MethodSpec, plugins: Sequence[Path]) -> None:
    """Save the files of plugins that a run's method, and the methods inside it, are made of; none for ours alone.

    Args:
        folder: the run's folder.
        method: the run's method.
        plugins: files of the user's own methods.

    Raises:
        ValueError: if the files are not those that the run was planned with.
    """
    named = {part.name for part in methods_inside(method) if part.source}
    if not named:
        return
    methods = available_methods(plugins)
    check_sources(method, methods)
    files = {f"{name}/{file}": content for name in named for file, content in methods.sources[name].files.items()}
    write_atomically(folder.source, lambda file: write_zip(files, file))


def check_sources(method: MethodSpec, methods: Mapping[str, type[Method]]) -> None:
    """Check that a run's method, and the methods inside it, are loaded from the files that the run was planned with.

    Args:
        method: the run's method.
        methods: the methods that were loaded.

    Raises:
        ValueError: naming the method whose plugin was edited, and its files.
    """
    sources = methods.sources if isinstance(methods, Methods) else {}
    for part in methods_inside(method):
        if part.source and part.source != source_digest(methods, part.name):
            paths = ", ".join(map(str, sources[part.name].paths)) if part.name in sources else "none names it any more"
            raise ValueError(
                f"{part.name}: the files of its plugin were edited after this run was planned ({paths}), and would not "
                "give the run that its key stands for; start the command again, which plans it anew"
            )


def methods_inside(method: MethodSpec) -> Iterator[MethodSpec]:
    """Yield a method, and the methods inside it."""
    part: MethodSpec | None = method
    while part:
        yield part
        part = part.of


def write_zip(files: Mapping[str, bytes], to: BinaryIO) -> None:
    """Write files, by name, as an archive whose bytes depend on nothing else."""
    with ZipFile(to, "w", ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(ZipInfo(name), content, ZIP_DEFLATED)  # its time is the first that an archive can hold
