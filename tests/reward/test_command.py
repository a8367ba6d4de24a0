"""What a command prints: on its stdout, and in the log that its supervisor names."""

import os
import subprocess
import sys

from reward.command import LOG_VARIABLE

COMMAND = """
from pathlib import Path
from dataclasses import dataclass
from reward.command import command
from reward.run_folder import RunFolder
from reward.settings import REQUIRED, Settings, setting

@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    out: Path = setting(REQUIRED, "folder")

def run(config):
    print("rows do not share their prefixes", flush=True)
    run = RunFolder(config.out)
    for step in (1, 2):
        run.log_metrics(step, 2)
    return "two steps"

command(Config, "program", run)()
"""
PRINTED = "rows do not share their prefixes\ntwo steps\n"


def words(tmp_path):
    return [sys.executable, "-c", COMMAND, "--out", str(tmp_path)]


def test_what_is_printed_stands_in_the_log_too(tmp_path):
    """Behind what is there."""
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    found = subprocess.run(
        words(tmp_path), env={**os.environ, LOG_VARIABLE: str(log)}, capture_output=True, check=True
    )
    assert found.stdout.decode() == PRINTED
    assert log.read_text() == "before\n" + PRINTED


def test_progress_is_seen_on_a_terminal_and_not_in_the_log(tmp_path):
    ours, theirs = os.openpty()
    log = tmp_path / "log.txt"
    environment = {**os.environ, LOG_VARIABLE: str(log)}
    subprocess.run(words(tmp_path), env=environment, stdout=theirs, check=True)
    shown = os.read(ours, 2000).decode()
    assert "] 1/2, " in shown
    assert shown.endswith("] 2/2, 0:00:00 left\r\ntwo steps\r\n")
    assert log.read_text() == PRINTED
