"""The console of all commands: texts appear on it as they are."""

from typing import Any

from rich.console import Console
from rich.text import Text

CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\t"), ord("\n")}, "?")
"""Control characters, which could write anything to a terminal, and what is printed in their place."""


LEAST_WIDTH = 60
"""The least width of a table; on a narrower terminal, its lines are wrapped."""


class PlainConsole(Console):
    """A console that prints texts as they are, and each line of them as one line.

    Nothing in a text is read as markup or as the name of an emoji: a path may be called [red] or :bomb:. Control
    characters are replaced. No text is wrapped, so that a path in a pipe stays whole; tables fit into the terminal.
    """

    def __init__(self, **options: Any) -> None:
        """Make a console.

        Args:
            options: of rich's console.
        """
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, or tables and other drawings.

        Args:
            objects: what is printed.
            options: of rich's `print`.
        """
        texts = all(isinstance(each, str) for each in objects)
        narrow = {"width": LEAST_WIDTH, "crop": False} if self.width < LEAST_WIDTH and not texts else {}
        super().print(*objects, **({"soft_wrap": texts} | narrow | options))

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text, or the text of a table's cell, as it is printed."""
        return super().render_str(text.translate(CONTROLS), **options)
