"""The whole platform in a folder of its own: what `make run` starts, on free ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
OF_THE_TESTS = (
    "DATABASE_URL",
    "REDIS_URL",
    "SAMPLER_URL",
    "SCORER_URL",
    "TANDEM_TEST_VAR",
    "BEAT_SECONDS",
)


class Platform:
    """Servers, workers, beat and sampler as processes of their own."""

    def __init__(self, var: Path, run_settings: dict[str, Any], **environment: str) -> None:
        self.var, self.port = var, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = var / "run_settings.json"
        settings.write_text(json.dumps(run_settings))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in OF_THE_TESTS},
            "TANDEM_VAR": str(var),
            "PORT": str(self.port),
            "SITE_URL": self.url,
            "SAMPLER_PORT": str(free_port()),
            "LIVE_PORT": str(free_port()),
            "SCORER_PORT": str(free_port()),
            "RUN_SETTINGS": str(settings),
            "BEAT_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        self.output: list[str] = []

    def start(self, seconds: float = 180) -> None:
        """Start everything and wait for the first page and the printed sign-in."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "annotation_app.processes.start"],
            cwd=ROOT, env=self.environment, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for(lambda: "Ctrl-C stops it" in self.printed, "the platform", seconds)

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.output.extend(iter(self.process.stdout.readline, ""))

    @property
    def printed(self) -> str:
        return "".join(self.output)

    @property
    def sign_in_link(self) -> str:
        return re.search(r"http://\S+/sign-in/\S+", self.printed)[0]

    def wait_for(self, ask, what: str, seconds: float = 180) -> Any:
        """Ask until the answer is true. Fails with what the platform printed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := ask():
                return found
            assert self.process.poll() is None, f"the platform ended:\n{self.printed}"
            time.sleep(1)  # each question may start a process of its own
        raise TimeoutError(f"waited {seconds} s for {what}; it printed:\n{self.printed[-6000:]}")

    def rows(self, expression: str) -> Any:
        """Evaluate an expression on the platform's own models, in a process of its own."""
        names = "from annotation_app.models import *; from annotation_app.lineage import *"
        code = f"import json; {names}; print(json.dumps({expression}))"
        done = self.manage("shell", "--no-imports", "-c", code)
        return json.loads(done.stdout.strip().splitlines()[-1])

    def manage(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT, env=self.environment, text=True, check=True, capture_output=True,
        )  # fmt: skip

    def redis(self) -> Any:
        import redis

        return redis.Redis.from_url((self.var / "redis" / "url").read_text())

    def is_answering(self) -> bool:
        try:
            return httpx.get(f"{self.url}/sign-in", trust_env=False, timeout=60).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> int:
        """Ctrl-C; returns the launcher's exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def running_platform(var: Path, run_settings: dict[str, Any], **more: str) -> Iterator[Platform]:
    platform = Platform(var, run_settings, **more)
    platform.start()
    try:
        yield platform
    finally:
        if platform.process.poll() is None:
            platform.stop()
