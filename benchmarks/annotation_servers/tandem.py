"""Tandem's web processes as the Procfile starts them, with a batch of made-up size."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

import psutil

from benchmarks.annotation_servers import Item
from benchmarks.annotation_servers.connection import Connection, Response, wait_until_answering
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
CHUNK = 2_000


class Tandem:
    """gunicorn with the Procfile's own line; SQLite, or the database at the address given."""

    def __init__(self, folder: Path, database_url: str = "", **more: str) -> None:
        self.name = "Tandem, PostgreSQL" if database_url else "Tandem, SQLite"
        self.folder, self.port, self.database_url = folder, free_port(), database_url
        named = {"DATABASE_URL": database_url} if database_url else {}
        kept = {n: v for n, v in os.environ.items() if n not in ("DATABASE_URL", "REDIS_URL")}
        self.environment = {
            **kept, **named, "TANDEM_VAR": str(folder), "PORT": str(self.port),
            "SITE_URL": f"http://127.0.0.1:{self.port}", **more,
        }  # fmt: skip

    def start(self, items: list[Item], annotators: int, overlap: int = 1) -> None:
        """Make the tables and the batch, then serve it."""
        self.prepare(items, annotators, overlap)
        self.launch()

    def prepare(self, items: list[Item], annotators: int, overlap: int = 1) -> None:
        """Make the tables and the batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.manage("migrate", "-v0")
        self.manage("collectstatic", "--no-input", "-v0")
        (self.folder / "items.json").write_text(json.dumps(items))
        self.sessions = json.loads(
            self.manage(
                "shell", "--no-imports", "-c",
                "from benchmarks.annotation_servers.tandem import fill; "
                f"fill({str(self.folder / 'items.json')!r}, {annotators}, {overlap})",
            )
        )  # fmt: skip

    def launch(self) -> None:
        """Start the web processes and wait until they answer."""
        self.process = self.begin("web")
        wait_until_answering(self.process, self.port, "/sign-in", 60, self.name)

    def begin(self, line: str) -> subprocess.Popen[bytes]:
        """The process that the Procfile starts under this name, with this interpreter."""
        lines = dict(line.split(": ", 1) for line in _procfile())
        command = lines[line].replace("exec ", f"exec {sys.executable} -m ", 1)
        return subprocess.Popen(
            ["sh", "-c", command], cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL
        )

    def annotator(self, number: int) -> TandemAnnotator:
        return TandemAnnotator(self.port, self.sessions[number])

    def stored(self) -> tuple[int, int]:
        """(annotations recorded, comparisons with more of them than their overlap)."""
        found = self.manage(
            "shell", "--no-imports", "-c",
            "from benchmarks.annotation_servers.tandem import counted; counted()",
        )  # fmt: skip
        recorded, over = json.loads(found)
        return recorded, over

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def manage(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT, env=self.environment, text=True, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        return done.stdout


def _procfile() -> list[str]:
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if ": " in line and not line.startswith("#")]


class TandemAnnotator:
    """What the judging page does: one request stores an answer and brings the next comparison."""

    def __init__(self, port: int, session: str) -> None:
        self.connection = Connection("127.0.0.1", port)
        self.connection.cookies["sessionid"] = session
        self.errors = 0
        page = self.connection.request("GET", "/annotate/helpfulness")
        if page.status != 200:
            raise RuntimeError(f"The judging page answered {page.status}.")
        marked = page.body.split(b'data-annotation="', 1)
        self.shown = int(marked[1].split(b'"', 1)[0]) if len(marked) == 2 else None
        self.ahead = self._next(self._post("/annotate/helpfulness/next", shown=self.shown or ""))

    def annotate(self, preference: str = "left_better") -> tuple[float, float] | None:
        """Submit for the comparison in view; the one ahead is shown at once.

        Returns (seconds until the next had arrived, seconds of the storing request), which is one
        request here, or None when nothing is left.
        """
        if self.shown is None:
            return None
        started = time.perf_counter()
        answer = self._post(
            f"/annotations/{self.shown}/record",
            preference=preference, active_seconds="12.5", idle_seconds="0.0",
            left_seconds="6.0", right_seconds="5.0", shown=self.ahead or "",
        )  # fmt: skip
        seconds = time.perf_counter() - started
        self.acknowledged, self.shown = self.shown, self.ahead
        self.ahead = self._next(answer)
        return seconds, seconds

    def _post(self, path: str, **fields: object) -> Response:
        token = {"X-CSRFToken": self.connection.cookies.get("csrftoken", "")}
        body = urlencode(fields).encode()
        answer = self.connection.request("POST", path, body, {**FORM, **token})
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {answer.body[:200]!r}")
        return answer

    @staticmethod
    def _next(answer: Response) -> int | None:
        card = json.loads(answer.body)["next"]
        return None if card is None else int(card["id"])


def fill(items: str, annotators: int, overlap: int) -> None:
    """Inside Django: an open batch of these items, and people who are signed in.

    Prints their session keys as JSON.
    """
    from importlib import import_module

    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY

    from annotation_app.models import (
        Batch,
        Comparison,
        Dialogue,
        DialogueRoot,
        Person,
        Prompt,
        Response,
    )  # fmt: skip

    batch = Batch.draft_next("helpfulness")
    read = [Item(*item) for item in json.loads(Path(items).read_text(encoding="utf-8"))]
    root = DialogueRoot.objects.create(hash="0" * 64, split="train")
    for start in range(0, len(read), CHUNK):
        chunk = read[start : start + CHUNK]
        dialogues = Dialogue.objects.bulk_create(Dialogue(root=root) for _ in chunk)
        prompts = Prompt.objects.bulk_create(
            Prompt(dialogue=dialogue, turn=1, messages=[{"role": "user", "content": item.prompt}])
            for dialogue, item in zip(dialogues, chunk, strict=True)
        )
        answers = [
            Response.objects.bulk_create(
                Response(prompt=prompt, text=getattr(item, side))
                for prompt, item in zip(prompts, chunk, strict=True)
            )
            for side in "ab"
        ]
        Comparison.objects.bulk_create(
            Comparison(
                batch=batch, criterion=batch.criterion, prompt=prompt, response_a=a, response_b=b,
                overlap=overlap, open_slots=overlap,
            )
            for prompt, a, b in zip(prompts, *answers, strict=True)
        )  # fmt: skip
    batch.open()
    sessions = []
    for number in range(annotators):
        person = Person.objects.create_user(f"annotator{number}", secrets.token_urlsafe(16))
        session = import_module(settings.SESSION_ENGINE).SessionStore()
        session[SESSION_KEY] = str(person.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = person.get_session_auth_hash()
        session.save()
        sessions.append(session.session_key)
    print(json.dumps(sessions))


def counted() -> None:
    """Inside Django: print what ``Tandem.stored`` returns."""
    from django.db.models import Count, F

    from annotation_app.models import Annotation

    recorded = Annotation.objects.recorded()
    judged = recorded.values("comparison").annotate(n=Count("pk"))
    over = judged.filter(n__gt=F("comparison__overlap")).count()
    print(json.dumps([recorded.count(), over]))
