"""The frame of a command: flags become its settings, what it refuses becomes one sentence.

Standard library only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

from reward.settings import parse

C = TypeVar("C")


class Main(Protocol):
    """A command line, the process's own or the given one."""

    def __call__(self, argv: list[str] | None = None) -> None: ...


class Refused(RuntimeError):
    """Why a command ends, in one sentence, where the fault lies outside what it was given."""


def command(config_class: type[C], program: str, run: Callable[[C], str]) -> Main:
    """The ``main`` of ``python -m program``.

    ``run`` gets the settings and returns the closing words, none where they are "". A ValueError,
    OSError or Refused ends the process with its sentence and status 1.
    """

    def main(argv: list[str] | None = None) -> None:
        config = parse(config_class, program, argv)
        try:
            words = run(config)
        except (ValueError, OSError, Refused) as error:
            if sys.stdout.isatty():
                print()  # below a line of progress that has not ended
            sys.exit(_sentence(error))
        if words:
            print(words)

    return main


def _sentence(error: Exception) -> str:
    """What an error says; of a file that cannot be opened, its name and why."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
