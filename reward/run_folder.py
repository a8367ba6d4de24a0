"""The run folder: what one child process of work reads, appends to, and leaves behind.

``config.json`` · ``provenance.json`` · inputs and ``manifest.json`` · ``metrics.jsonl`` ·
``log.txt`` · ``checkpoint/``
(to resume from) · ``model/`` · ``result.json``, written last, by rename: it is there when done.
Standard library only; the web side reads the same folder through this module.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from reward.command import Refused
from reward.provenance import digest, provenance
from reward.settings import Settings, how_of, other_setting, to_mapping

PARENT_VARIABLE = "TANDEM_PARENT_PID"
ATTEMPT_VARIABLE = "TANDEM_ATTEMPT"
SEAL = "sha256.json"
PARENT_CHECK_SECONDS = 0.5
LOOKING_SECONDS = 0.5  # far longer than `is_held` has the lock, even on a busy machine
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # as terminals are told


class RunFolderBusy(Refused):
    """Another live process holds the folder's lock."""


class RunFolder:
    """One writer at a time, held by ``locked()``; any number of readers."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._began = (0, time.monotonic())
        self._how: dict[str, Any] = {}

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    # --- holding the folder --------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process, and die with the process that supervises it.

        The lock is the operating system's, so a killed holder leaves none behind.
        Raises RunFolderBusy when another process holds it for longer than it takes to look.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            if not _locks(file, fcntl.LOCK_EX, time.monotonic() + LOOKING_SECONDS):
                raise RunFolderBusy(f"{self.path} is held by another running process")
            die_with_parent()
            if self.result_file.exists():  # killed before its checkpoints were gone
                self._forget_checkpoints()
            yield

    def once(self, config: Settings, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Do ``work`` in the locked folder, store what it returns as the result, and return that;
        where there is one already it is returned as it is.

        Raises ValueError for another configuration than the folder's, RunFolderBusy.
        """
        with self.locked():
            if (done := self.result()) is not None:
                self.refuse_other(config)
                print(f"{self.path} is done already.", flush=True)
                return done
            self.write_config(config)
            self.write_result(work())
            return self.result() or {}

    def is_held(self) -> bool:
        """Whether a living process works in this folder.

        Who looks shares the lock for a moment with others who do; who begins to work waits it out.
        """
        file = self.path / "lock"
        if not file.exists():
            return False
        with file.open("r") as opened:
            return not _locks(opened, fcntl.LOCK_SH)

    # --- configuration -------------------------------------------------------------------

    def write_config(self, config: Settings) -> None:
        """Store what this run is asked to do, and how. Raises ValueError as ``refuse_other``."""
        self.refuse_other(config)
        self._how = how_of(config)
        write_json(self.config_file, to_mapping(config))

    def refuse_other(self, config: Settings) -> None:
        """The same folder never serves two different asks: raises ValueError naming the first
        setting that is another than the stored one.

        One that was refused before its work began may be put right in the same folder, and how
        something is computed may change whenever the run is started.
        """
        stored, asked = self._config(), to_mapping(config)
        if stored is None or (not self._has_begun() and stored.keys() == asked.keys()):
            return
        if name := other_setting(type(config), stored, asked):
            raise ValueError(
                f"{self.path} was started with {name}={stored.get(name)!r}, not "
                f"{asked.get(name)!r}: use another --out folder"
            )

    def write_provenance(self, inputs: Mapping[str, Path | None]) -> None:
        """Store what goes into this run: ``provenance.json``. A resumed run must find the same.

        What was different when it was started again stands under ``later``, settings that say how
        it computes too. Raises ValueError naming an input whose contents have changed since the run
        began.
        """
        found = {**provenance(inputs), "settings": self._how}
        if self._has_begun() and self.provenance_file.exists():
            stored = json.loads(self.provenance_file.read_text(encoding="utf-8"))
            for name, path in inputs.items():
                if stored["inputs"].get(name) != found["inputs"].get(name):
                    raise ValueError(
                        f"{name} ({path}) has changed since {self.path} began: use another --out "
                        "folder"
                    )
            if {**stored, "later": None} == {**found, "later": None}:
                return
            found = {**stored, "later": [*stored.get("later", []), found]}
        write_json(self.provenance_file, found)

    def begin(self) -> None:
        """From here on the folder holds something that was made: the first figures say so too."""
        with writing(self.metrics_file):
            self.metrics_file.touch()

    def _has_begun(self) -> bool:
        return self.metrics_file.exists()

    # --- figures -------------------------------------------------------------------------

    def log_metrics(self, step: int, total: int, **figures: float | int | str | None) -> None:
        """Append one line of figures; also the run's heartbeat. ``step`` of ``total`` is progress.

        Raises ValueError for a figure that is not finite.
        """
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value} at step {step}, allowed are finite numbers")
        line = {"step": step, "total": total, "time": round(time.time(), 3), **figures}
        with writing(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if sys.stdout.isatty():
            self._show_progress(step, total)

    def _show_progress(self, step: int, total: int) -> None:
        """One line that is rewritten on a terminal, with the time that this pace leaves."""
        first, since = self._began
        pace = (time.monotonic() - since) / max(step - first, 1)
        left = timedelta(seconds=round(pace * (total - step)))
        bar = "#" * (30 * step // max(total, 1))
        end = "\n" if step >= total else ""
        line = f"\r{self.path.name} [{bar:<30}] {step}/{total}, {left} left"
        print(line, end=end, file=sys.__stdout__, flush=True)  # the log has no use for it

    def rewind_metrics(self, step: int) -> None:
        """Drop the figures after ``step``: those steps are about to be done again."""
        self._began = (step, time.monotonic())
        if not self._has_begun():
            return
        kept = [line for line in self.metrics() if line["step"] <= step]
        temporary = self.metrics_file.with_suffix(".tmp")
        text = "".join(json.dumps(line) + "\n" for line in kept)
        with writing(self.metrics_file):
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.metrics_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of figures so far (a line still being written is left out)."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines if line.strip()]

    def last_metrics(self) -> dict[str, Any] | None:
        """The newest whole line of figures, read from the end of the file."""
        if not self.metrics_file.exists():
            return None
        with self.metrics_file.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64_000))
            lines = [line for line in file.read().split(b"\n")[:-1] if line.strip()]
        if not lines:
            return None
        newest: dict[str, Any] = json.loads(lines[-1])
        return newest

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what the process printed."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64_000))
            text = file.read().decode("utf-8", "replace")
        rewritten = [line.rpartition("\r")[2] for line in COLOUR.sub("", text).split("\n")]
        return "\n".join(rewritten[-lines:]).strip()

    # --- the end -------------------------------------------------------------------------

    def result(self) -> dict[str, Any] | None:
        """What the run reported when it was done, or None while it is not."""
        if not self.result_file.exists():
            return None
        result: dict[str, Any] = json.loads(self.result_file.read_text())
        return result

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Say that the run is done. Carries the attempt, so an older attempt's can be refused."""
        attempt = int(os.environ.get(ATTEMPT_VARIABLE, "1"))
        write_json(self.result_file, {"attempt": attempt, **result})
        self._forget_checkpoints()

    # --- resuming ------------------------------------------------------------------------

    def save_checkpoint(self, write: Callable[[Path], object]) -> None:
        """Replace ``checkpoint/`` by what ``write`` puts into the folder it is given.

        A process killed at any moment, or a full disk, leaves either the old checkpoint or the new
        one whole. The old one stays beside the new one, as ``checkpoint.old``.
        """

        def sealed(new: Path) -> None:
            write(new)
            self._seal(new)

        replace_folder(self.checkpoint, sealed, keep_old=True)

    def resumable_checkpoint(self) -> Path | None:
        """The last whole checkpoint, or None when there is nothing to resume from.

        Raises ValueError for one that is not, byte for byte, what this run wrote there.
        """
        checkpoint = whole_folder(self.checkpoint)
        fault = self._fault(checkpoint) if checkpoint else ""
        if fault:
            before = self.checkpoint.with_name(self.checkpoint.name + ".old").exists()
            to = "go on from the checkpoint before it" if before else "begin again"
            raise ValueError(f"{fault}; to {to}, remove {checkpoint}")
        return checkpoint

    def _seal(self, folder: Path) -> None:
        """Write down whose checkpoint this is and the sha256 of its files, which do not say so."""
        files = {str(file.relative_to(folder)): digest(file) for file in _files(folder)}
        write_json(folder / SEAL, {"config": self._config(), "files": files})

    def _fault(self, folder: Path) -> str:
        """What is wrong with a checkpoint, or ""."""
        try:
            seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
            config, files = seal["config"], dict(seal["files"])
        except (OSError, ValueError, LookupError, TypeError):
            return f"{folder / SEAL} is missing or damaged"
        if self._what(config) != self._what(self._config()):
            return f"{folder} is the checkpoint of another run"
        for name, sha256 in files.items():
            if not (folder / name).is_file():
                return f"{folder / name} is missing"
            if digest(folder / name) != sha256:
                return f"{folder / name} is damaged: it is not what was written"
        return ""

    def _what(self, config: Any) -> Any:
        """A configuration without what says how is computed."""
        if not isinstance(config, dict):
            return config
        return {name: value for name, value in config.items() if name not in self._how}

    def _config(self) -> Any:
        return json.loads(self.config_file.read_text()) if self.config_file.exists() else None

    def _forget_checkpoints(self) -> None:
        for suffix in ("", ".old", ".new"):
            name = self.checkpoint.name + suffix
            shutil.rmtree(self.checkpoint.with_name(name), ignore_errors=True)


def _locks(file: TextIO, kind: int, deadline: float = 0.0) -> bool:
    """Take the lock; False where another process still has it at the deadline (monotonic)."""
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the error of a write that failed: of a full disk the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers see the old file or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False, default=str)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def replace_folder(path: Path, write: Callable[[Path], object], keep_old: bool = False) -> None:
    """Fill a new folder by ``write`` and put it in ``path``'s place; never half of it.

    What stood there stays beside it as ``….old`` until the next time where ``keep_old`` says so.
    """
    new, old = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    try:
        with writing(path):
            new.mkdir(parents=True)
            write(new)
            _flush(new)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise
    with writing(path):
        if path.exists():
            os.rename(path, old)
        os.rename(new, path)
    if not keep_old:
        shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _flush(folder: Path) -> None:
    """Have every file of a folder on the disk."""
    for file in _files(folder):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def whole_folder(path: Path) -> Path | None:
    """What ``replace_folder`` last completed at ``path``, also after a kill between its renames."""
    old = path.with_name(path.name + ".old")
    if not path.exists() and old.exists():
        os.rename(old, path)
    return path if path.exists() else None


def die_with_parent() -> None:
    """End this process group when the supervising process named in the environment is gone.

    A supervisor sets TANDEM_PARENT_PID, its number on its host, and starts the child in a session
    of its own; started by hand there is no such variable and nothing is watched, nor on another
    host. Works behind launchers such as torchrun.
    """
    pid, _, host = os.environ.get(PARENT_VARIABLE, "").partition("@")
    if pid and host in ("", socket.gethostname()):
        _end_without(lambda: _is_alive(int(pid)))


def die_with_launcher() -> None:
    """End this process group when the process that started it is gone: torchrun gives each rank a
    session of its own, where no signal to torchrun's arrives."""
    launcher = os.getppid()
    _end_without(lambda: os.getppid() == launcher)


def _end_without(is_there: Callable[[], bool]) -> None:
    def watch() -> None:
        while is_there():
            time.sleep(PARENT_CHECK_SECONDS)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
