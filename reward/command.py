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
            sys.exit(str(error))
        if words:
            print(words)

    return main
