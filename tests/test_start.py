"""`make run`: what it starts, what it says when it cannot, and that it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from annotation_app.processes import redis, start
from tests.platform import Platform, running_platform

WITHOUT_DEMO = {"TANDEM_DEMO": "false"}
NAMES = {"redis", "web", "live", "worker", "gpu", "beat", "sampler", "scorer"}


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def commands(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(" ".join(process.cmdline()))
    return found


def alive_after(processes: list[psutil.Process], seconds: float) -> list[str]:
    """The commands of those that still run then; none is the wish."""
    deadline = time.monotonic() + seconds
    while (alive := list(filter(is_alive, processes))) and time.monotonic() < deadline:
        time.sleep(0.1)
    return commands(alive)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def var(tmp_path_factory) -> Path:
    """With a space in its name, as a home folder may have."""
    folder = tmp_path_factory.mktemp("start") / "the var"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def platform(var):
    with running_platform(var, {}, **WITHOUT_DEMO) as platform:
        yield platform


# --- one life, in order: started, used, refused a twin, stopped, started again, killed ------------


def test_it_works(platform: Platform):
    assert platform.is_answering()
    assert f"Tandem is at {platform.url}" in platform.printed
    names = {line.partition("|")[0].strip() for line in platform.printed.splitlines()}
    assert names & NAMES  # what they print is labelled
    answer = httpx.get(platform.sign_in_link, trust_env=False, timeout=60)
    assert answer.status_code == httpx.codes.OK


def test_every_line_of_the_procfile_runs(platform: Platform):
    running = " ".join(commands(descendants(platform.process)))
    for word in (
        "redis-server",
        "gunicorn",
        "uvicorn",
        "--queues default",
        "--queues gpu",
        " beat ",
        "transformers serve",
        "reward.serve",
    ):
        assert word in running, word
    assert platform.redis().ping()


def test_secrets_are_generated_and_private(platform: Platform):
    for name in ("secret_key", "redis/url", "redis/password", "redis/redis.conf"):
        assert (platform.var / name).stat().st_mode & 0o077 == 0, name


def test_redis_refuses_those_without_the_password(platform: Platform):
    with socket.create_connection(
        ("127.0.0.1", int((platform.var / "redis/port").read_text()))
    ) as peer:
        peer.sendall(b"PING\r\n")
        assert peer.recv(100).startswith(b"-NOAUTH")


def test_a_second_one_on_the_same_folder_is_refused(platform: Platform):
    refused = launch(platform, PORT="1", SAMPLER_PORT="2", LIVE_PORT="3", SCORER_PORT="4")
    assert refused == (
        1,
        f"Tandem is already running on {platform.var} (process {platform.process.pid}).\n",
    )


def test_a_taken_port_is_one_sentence(platform: Platform, tmp_path):
    refused = launch(platform, TANDEM_VAR=str(tmp_path))
    assert refused == (
        1,
        f"Port {platform.port} for the web process is taken: stop what uses it or set PORT to "
        "another.\n",
    )


def test_ctrl_c_leaves_nothing_and_the_next_start_goes_on(platform: Platform):
    platform.redis().set("kept", "yes")
    key = (platform.var / "secret_key").read_text()
    started = descendants(platform.process)
    assert platform.stop() == 0
    assert alive_after(started, 1) == []
    assert "Traceback" not in platform.printed, platform.printed

    platform.output.clear()
    platform.start()
    assert platform.is_answering()
    assert platform.redis().get("kept") == b"yes"
    assert (platform.var / "secret_key").read_text() == key


def test_killing_it_leaves_nothing(platform: Platform):
    started = descendants(platform.process)
    assert len(started) > len(NAMES)
    platform.process.kill()
    assert alive_after(started, 10) == []


# --- short lives ----------------------------------------------------------------------------------


def test_ctrl_c_while_it_prepares(tmp_path):
    platform = Platform(tmp_path, {}, **WITHOUT_DEMO)
    process = subprocess.Popen(
        [sys.executable, "-m", "annotation_app.processes.start"],
        cwd=start.settings.BASE_DIR, env=platform.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while not any("manage.py" in command for command in commands(descendants(process))):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = descendants(process)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert printed.split() == ["Stopping", "…"]
    assert alive_after(started, 1) == []


def test_one_that_ends_stops_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(start, "prepare", lambda: None)
    monkeypatch.setattr(start, "_answers", lambda port: True)
    monkeypatch.setattr(start.Processes, "_announce", lambda self: None)
    handlers = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    marker = tmp_path / "stopped"
    ready = tmp_path / "ready"
    patient = f"trap 'touch {marker}; exit' TERM; touch {ready}; while :; do sleep 0.05; done"
    web = f"while ! [ -e {ready} ]; do sleep 0.05; done; echo done"
    try:
        status = start.Processes({"patient": patient, "web": web}).run()
    finally:
        for sign, handler in handlers.items():
            signal.signal(sign, handler)
    assert status == 1
    assert marker.exists()
    assert "The web process ended; stopping the others." in capfd.readouterr().out


def launch(platform: Platform, **environment: str) -> tuple[int, str]:
    """Status and all output of a start that is expected to refuse."""
    done = subprocess.run(
        [sys.executable, "-m", "annotation_app.processes.start"],
        cwd=start.settings.BASE_DIR, env={**platform.environment, **environment},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_a_wrong_setting_is_one_sentence(tmp_path):
    refused = launch(Platform(tmp_path, {}), GPU_WORKERS="many")
    assert refused == (1, "GPU_WORKERS is 'many', allowed is a number from 1 to 64.\n")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    status, printed = launch(Platform(tmp_path, {}), TANDEM_VAR=str(tmp_path / "file"))
    assert status == 1
    assert printed.startswith("The var folder cannot be written: ")
    assert printed.count("\n") == 1


def test_a_full_disk_is_one_sentence(monkeypatch):
    start.settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
    usage = type(shutil.disk_usage("/"))(2**40, 2**40 - 5 * 2**20, 5 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(start.CannotRun, match="is full: 5 MB are free, at least 200 MB are needed"):
        start.check({})


def test_no_redis_is_one_sentence(monkeypatch):
    monkeypatch.setattr(redis, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(redis.NoRedis, match="put redis-server on PATH or set REDIS_URL"):
        start.check({"redis": ""})
    monkeypatch.setattr(shutil, "which", lambda name: "/opt/redis-server")
    assert redis.server_binary() == Path("/opt/redis-server")


def test_servers_elsewhere_are_not_started_here(monkeypatch):
    lines = {"redis": "", "web": "", "sampler": "", "scorer": ""}
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere/0")
    monkeypatch.setenv("SAMPLER_URL", "http://elsewhere")
    monkeypatch.setenv("SCORER_URL", "http://elsewhere")
    assert start.chosen_lines(lines) == {"web": ""}


# --- make setup, with a stand-in for Python ------------------------------------------------------

PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *"-m pip"*) test ! -e "$LOG.pip-fails" ;;
  --version) echo "Python 3.9.2" ;;
esac
"""


class Setup:
    """The Makefile in a folder of its own, where only chosen programs exist."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "clone", folder / "log"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.folder.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(start.settings.BASE_DIR / name, self.folder)
        for name in ("awk", "df", "rm", "touch", "mkdir", "cp"):
            (self.programs / name).symlink_to(shutil.which(name))

    def add(self, name: str, script: str) -> None:
        (self.programs / name).unlink(missing_ok=True)
        (self.programs / name).write_text(script)
        (self.programs / name).chmod(0o755)

    def make(self) -> tuple[bool, str, list[str]]:
        """Whether it went well, what it complained about, and what Python was asked for."""
        self.log.write_text("")
        environment = {"PATH": str(self.programs), "LOG": str(self.log)}
        done = subprocess.run(
            [shutil.which("make"), "setup"],
            cwd=self.folder, env=environment, text=True, capture_output=True,
        )  # fmt: skip
        complaints = "".join(
            line for line in done.stderr.splitlines(True) if not line.startswith("make: ")
        )
        asked = [
            line.split(" -m ")[1] for line in self.log.read_text().splitlines() if "-m" in line
        ]
        return done.returncode == 0, complaints, asked


@pytest.fixture
def setup(tmp_path) -> Setup:
    return Setup(tmp_path)


def test_a_python_that_is_too_old_is_one_sentence(setup: Setup):
    setup.add("python3", PYTHON.replace('*"-m venv"*)', "-c*) exit 1 ;; *venv*)"))
    assert setup.make() == (
        False,
        "Tandem needs Python 3.11 or 3.12 with its venv module; found Python 3.9.2.\n",
        [],
    )


def test_a_disk_too_full_for_the_environment_is_one_sentence(setup: Setup):
    setup.add("python3.12", PYTHON)
    setup.add("df", "#!/bin/sh\necho head\necho disk 1 1 300000 1 /\n")
    assert setup.make() == (
        False,
        "The disk has less than 4 GB free, which the virtual environment needs.\n",
        [],
    )


def test_the_environment_is_built_once_and_a_half_built_one_anew(setup: Setup):
    setup.add("python3.11", PYTHON)
    pip_fails = setup.log.with_name("log.pip-fails")
    pip_fails.touch()
    well, complaints, asked = setup.make()
    assert not well
    assert complaints == "The pinned parts could not be installed; pip says above why.\n"
    assert asked[0] == "venv --clear .venv"

    pip_fails.unlink()
    well, complaints, asked = setup.make()
    assert (well, complaints) == (True, "")
    assert [words.split()[0] for words in asked] == ["venv", "pip", "pip"]
    assert asked[-1].endswith("-c constraints.txt -e .[test]")
    assert (setup.folder / ".venv/.ready").exists()

    assert setup.make() == (True, "", [])
    later = time.time() + 5
    os.utime(setup.folder / "constraints.txt", (later, later))
    well, _, asked = setup.make()
    assert [words.split()[0] for words in asked] == ["pip", "pip"]
