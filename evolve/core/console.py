"""rich's console, on which nothing foreign is obeyed; :mod:`evolve.core.terminal` is for words."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from evolve.core.terminal import printable


class Console(rich.console.Console):
    """Words and tables' cells are shown: no markup, emoji codes or escapes of theirs are obeyed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Words and cells as rich draws them, each in one line as far as there is room."""
        return super().render_str(printable(text), **options)
