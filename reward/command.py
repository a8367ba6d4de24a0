"""The frame of a command: flags become its settings, what it refuses becomes one sentence.

Standard library only.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

from reward.settings import parse

C = TypeVar("C")

LOG_VARIABLE = "TANDEM_LOG"  # names the file that holds what a command prints beside its stdout


class Main(Protocol):
    """A command line, the process's own or the given one."""

    def __call__(self, argv: list[str] | None = None) -> None: ...


class Refused(RuntimeError):
    """Why a command ends, in one sentence, where the fault lies outside what it was given."""


def behind(launcher: str | None, words: list[str]) -> list[str]:
    """A command of this Python with a launcher in Python's place, where there is one.

    A launcher that lies beside this Python is that one, whatever PATH says.
    """
    if not launcher:
        return words
    first, *rest = shlex.split(launcher)
    beside = Path(sys.executable).parent / first
    return [str(beside) if beside.is_file() else first, *rest, *words[1:]]


def launched() -> int:
    """How many processes a launcher started of this command: torchrun and accelerate say so, and so
    does a plain ``srun``."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return int(os.environ["SLURM_STEP_NUM_TASKS"])
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def memory_refused(config: object) -> Iterator[None]:
    """Raises Refused, with the settings that need less of it, where a device has no memory left."""
    try:
        yield
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # it is loaded where its errors are raised
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        refusal = str(error).partition(". ")[0]
        raise Refused("; ".join([refusal, *_less(config)])) from None


def _less(config: object) -> list[str]:
    """In words, which flags of a command let it need less memory; none where it has none."""
    names = ["tokens_per_minibatch"]
    if getattr(config, "address", None) is None:  # otherwise nothing is drawn here
        names.append("generation_rows")
    flags = [f"--{name.replace('_', '-')}" for name in names if hasattr(config, name)]
    less = [f"a smaller {' or '.join(flags)}"] if flags else []
    if getattr(config, "recompute_activations", True) is False:
        less.append("--recompute-activations true")
    return [f"{' or '.join(less)} needs less"] if less else []


def command(
    config_class: type[C], program: str, run: Callable[[C], str], *, has_ranks: bool = False
) -> Main:
    """The ``main`` of ``python -m program``.

    ``run`` gets the settings and returns the closing words, none where they are "". A ValueError,
    OSError or Refused ends the process with its sentence and status 1, and so does a device without
    memory. Several processes may share the work of one that ``has_ranks``; of any other, each would
    do all of it.
    """

    def main(argv: list[str] | None = None) -> None:
        config = parse(config_class, program, argv)
        try:
            if not has_ranks and launched() > 1:
                raise Refused(
                    f"{program} is one process, and a launcher has started {launched()} of it; "
                    "docs/launching.md says what several can share"
                )
            with logged(os.environ.get(LOG_VARIABLE)):
                with memory_refused(config):
                    words = run(config)
                if words:
                    print(words)
        except (ValueError, OSError, Refused) as error:
            if sys.stdout.isatty():
                print()  # below a line of progress that has not ended
            sys.exit(_sentence(error))

    return main


class _Both(TextIOBase):
    """What is printed goes to the first, which says what it is, and to the log."""

    def __init__(self, first: TextIO, log: TextIO) -> None:
        self._first, self._log = first, log

    def write(self, text: str, /) -> int:
        self._log.write(text)
        return self._first.write(text)

    def flush(self) -> None:
        self._log.flush()
        self._first.flush()

    def isatty(self) -> bool:
        return self._first.isatty()

    def fileno(self) -> int:
        return self._first.fileno()


@contextmanager
def logged(log: str | None) -> Iterator[None]:
    """What is printed stands in a log too, where there is one; progress on a terminal does not."""
    if log is None:
        yield
        return
    with open(log, "a", encoding="utf-8") as file, redirect_stdout(_Both(sys.stdout, file)):
        yield


def _sentence(error: Exception) -> str:
    """What an error says; of a file that cannot be opened, its name and why."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
