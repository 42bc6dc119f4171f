"""Where words reach the terminal. Names of files, classes and cases come from others.

What a terminal would obey is shown, not executed. All of evolve prints by :func:`tell` or
:mod:`evolve.core.console`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

import click

# Control characters, line ends, marks that turn the direction of writing, and what no UTF-8 holds:
# bytes of a file's name that were none.
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Text of unknown origin in one line; what a terminal would obey stands as JSON and TOML have it.

    An escape is shown as backslash, "u001b", a line end as backslash, "n".
    """
    return UNPRINTABLE.sub(
        lambda sign: {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(sign[0], f"\\u{ord(sign[0]):04x}"),
        text,
    )


def quoted(words: Iterable[str]) -> str:
    r"""Words as one line for a shell.

    Bytes that are no UTF-8 and control characters stand as bash, ksh and zsh read them: $'caf\xe9'.
    """
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if not UNPRINTABLE.search(word):
        return shlex.quote(word)
    signs = (
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in os.fsencode(word)
    )
    return f"$'{''.join(signs)}'"


def tell(*lines: str, err: bool = False) -> None:
    """Print lines.

    Args:
        lines: each becomes one line, whatever it holds.
        err: to standard error.
    """
    for line in lines:
        click.echo(printable(line), err=err)
