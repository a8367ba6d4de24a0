"""Label Studio 1.23.2 with one project, driven by the requests of its own labelling page."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.annotation_servers import Item
from benchmarks.annotation_servers.connection import Connection, Response, wait_until_answering
from tests.ports import free_port

STRENGTHS = ("significantly better", "better", "slightly better", "negligibly better")
CHOICES = [f"Left {word}" for word in STRENGTHS] + [f"Right {word}" for word in STRENGTHS[::-1]]
LABELLING = (
    '<View><Text name="prompt" value="$prompt"/>'
    '<Text name="a" value="$a"/><Text name="b" value="$b"/>'
    '<Choices name="preference" toName="prompt" choice="single-radio" required="true">'
    + "".join(f'<Choice value="{choice}"/>' for choice in CHOICES)
    + "</Choices></View>"
)
SETTINGS = {
    "DEBUG": "false",
    "LOG_LEVEL": "WARNING",
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "FEATURE_FLAGS_OFFLINE": "true",
    "DJANGO_DB": "sqlite",
}
UWSGI = {"DJANGO_SETTINGS_MODULE": "core.settings.label_studio", "APP_WEBSERVER": "uwsgi"}
CHUNK = 5_000
STARTING_SECONDS = 300


class LabelStudio:
    """Label Studio as installed, or on PostgreSQL as its documentation suggests for production.

    - Without a database address: `label-studio start`, one process of Django's threaded
      `runserver` on SQLite. With one: the same on PostgreSQL, or uWSGI where `uwsgi` lies beside
      the interpreter (`pip install 'label-studio[uwsgi]'`).
    - uWSGI as in the `deploy/uwsgi.ini` of its Docker image: two processes per core, one thread
      each. Other than there, all of them run from the start, connections are kept alive, and no
      nginx stands in front.
    - DEBUG off and log level WARNING (the defaults); no analytics, version check or Sentry; the
      feature flags it ships with. The project has the defaults: overlap 1, tasks in sequence.
    - On PostgreSQL, without the trigram indexes for searching in results (its own switch,
      `SKIP_TRIGRAM_EXTENSION`): the database then needs no extension, and storing costs less.

    The 8-point choice is a `Choices` block: its `Pairwise` knows left and right only.
    """

    def __init__(
        self, python: Path, folder: Path, database_url: str = "", only_essential: bool = False
    ) -> None:
        """`only_essential` leaves out what the page sends without the annotator waiting for it."""
        self.uwsgi = database_url and python.absolute().with_name("uwsgi").exists()
        self.name = "Label Studio" + (", PostgreSQL" if database_url else "")
        self.name += ", uWSGI" if self.uwsgi else ""
        self.python, self.folder, self.port = python.absolute(), folder, free_port()
        self.database_url, self.only_essential = database_url, only_essential
        self.environment = {
            **SETTINGS, "PATH": os.environ["PATH"], "LANG": "C.UTF-8",
            "HOME": str(folder), "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
            **(_postgresql(database_url) if database_url else {}),
        }  # fmt: skip

    def start(self, items: list[Item], annotators: int) -> None:
        """Make the tables in the empty database, serve, and set up the rest as a person would."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("wb") as log:
            subprocess.run(
                self._label_studio("init", "--quiet"), env=self.environment, cwd=self.folder,
                stdout=log, stderr=log, check=True,
            )  # fmt: skip
        self.launch()
        try:
            self._fill(items)
            self.cookies = [self._sign_up().cookies for _ in range(annotators)]
        except BaseException:
            self.stop()
            raise

    def launch(self) -> None:
        """Start the server and wait until it answers."""
        command, folder = self._label_studio("start", "--no-browser"), self.folder
        environment = self.environment
        if self.uwsgi:
            command, folder = self._uwsgi(self.python.with_name("uwsgi")), self._package()
            environment = environment | UWSGI
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log
            )
        what = f"{self.name} (see {self.folder}/server.log)"
        wait_until_answering(self.process, self.port, "/health", STARTING_SECONDS, what)

    def annotator(self, number: int) -> LabelStudioAnnotator:
        cookies = self.cookies[number]
        return LabelStudioAnnotator(self.port, self.project, cookies, self.only_essential)

    def stored(self) -> tuple[int, int]:
        """(annotations in its table, tasks that carry more than one)."""
        query = (
            "SELECT COALESCE(SUM(n), 0), COALESCE(SUM(CASE WHEN n > 1 THEN 1 ELSE 0 END), 0) "
            "FROM (SELECT COUNT(*) AS n FROM task_completion GROUP BY task_id) AS tasks"
        )
        if self.database_url:
            with psycopg.connect(self.database_url) as connection:
                row = connection.execute(query).fetchone()
        else:
            file = sqlite3.connect(self.folder / "data" / "label_studio.sqlite3")
            row = file.execute(query).fetchone()
            file.close()
        assert row is not None
        return int(row[0]), int(row[1])

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def stop(self) -> None:
        if self.process.poll() is None:
            running = self.processes()
            self.process.terminate()
            for process in psutil.wait_procs(running, 20)[1]:
                process.kill()
            self.process.wait(20)

    def _fill(self, items: list[Item]) -> None:
        """The first person to sign up owns the organisation, which makes one project."""
        owner = self._sign_up()
        made = _send(
            owner, "POST", "/api/projects/",
            {"title": "Preference", "label_config": LABELLING, "maximum_annotations": 1},
        )  # fmt: skip
        self.project = int(json.loads(_checked(made, 201).body)["id"])
        for start in range(0, len(items), CHUNK):
            tasks = [item._asdict() for item in items[start : start + CHUNK]]
            _checked(_send(owner, "POST", f"/api/projects/{self.project}/import", tasks), 201)

    def _sign_up(self) -> Connection:
        """A new person in the one organisation, who may see its projects; signed in."""
        connection = Connection("127.0.0.1", self.port)
        _checked(connection.request("GET", "/user/signup/"), 200)
        body = urlencode(
            {
                "email": f"{secrets.token_hex(8)}@example.org",
                "password": secrets.token_urlsafe(16),
                "csrfmiddlewaretoken": connection.cookies["csrftoken"],
            }
        )
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        _checked(connection.request("POST", "/user/signup/", body.encode(), form), 302)
        return connection

    def _label_studio(self, *words: str) -> list[str]:
        address = ["--internal-host", "127.0.0.1", "--port", str(self.port)]
        return [str(self.python), "-m", "label_studio.server", *words, *address]

    def _uwsgi(self, program: Path) -> list[str]:
        return [
            str(program), "--http", f"127.0.0.1:{self.port}", "--http-keepalive",
            "--module", "core.wsgi:application", "--master", "--threads", "1",
            "--processes", str(2 * (os.cpu_count() or 1)), "--single-interpreter",
            "--enable-threads", "--lazy-apps", "--thunder-lock", "--need-app", "--die-on-term",
            "--buffer-size", "65535", "--post-buffering", "4096", "--http-timeout", "300",
            "--harakiri", "120", "--disable-logging",
        ]  # fmt: skip

    def _package(self) -> Path:
        code = "import label_studio; print(label_studio.__path__[0])"
        found = subprocess.run([self.python, "-c", code], check=True, stdout=subprocess.PIPE)
        return Path(found.stdout.decode().strip())


class LabelStudioAnnotator:
    """What the page behind "Label All Tasks" sends, as recorded with Chromium.

    One annotation is a choice and a click on "Submit" before the page saves a draft: the choice
    is stored, then the next task is asked for. With each task the page also asks for the labels
    that people added to the project. Left out are its counts, asked for every 20 seconds.
    """

    def __init__(
        self, port: int, project: int, cookies: dict[str, str], only_essential: bool
    ) -> None:
        self.connection = Connection("127.0.0.1", port)
        self.connection.cookies.update(cookies)
        self.project, self.only_essential = str(project), only_essential
        self.errors = 0

    def annotate(self) -> tuple[float, float] | None:
        """Get the next task and store a choice for it.

        Returns (seconds of getting the task, seconds of storing the choice), or None when the
        server has nothing more. Answers of 500 and above count as errors and are retried once.
        """
        project = {"project": self.project}
        started = time.perf_counter()
        path = f"/api/dm/actions?id=next_task&project={self.project}"
        answer = self._request("POST", path, project, 200, 404)
        got = time.perf_counter() - started
        if answer.status == 404:
            return None
        task = json.loads(answer.body)
        if not self.only_essential:
            path = f"/api/label_links?project={self.project}&expand=label"
            self._request("GET", path, None, 200)
        choice = {
            "id": secrets.token_hex(5), "from_name": "preference", "to_name": "prompt",
            "type": "choices", "origin": "manual", "value": {"choices": [secrets.choice(CHOICES)]},
        }  # fmt: skip
        annotation = {
            **project, "result": [choice], "lead_time": 12.5, "draft_id": 0,
            "parent_prediction": None, "parent_annotation": None,
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }  # fmt: skip
        if task["unique_lock_id"]:
            annotation["unique_id"] = task["unique_lock_id"]
        started = time.perf_counter()
        path = f"/api/tasks/{task['id']}/annotations?project={self.project}"
        self._request("POST", path, annotation, 201)
        return got, time.perf_counter() - started

    def _request(self, method: str, path: str, fields: object, *expected: int) -> Response:
        answer = _send(self.connection, method, path, fields)
        if answer.status >= 500:
            self.errors += 1
            answer = _send(self.connection, method, path, fields)
        return _checked(answer, *expected)


def _send(connection: Connection, method: str, path: str, fields: object) -> Response:
    body = b"" if fields is None else json.dumps(fields).encode()
    return connection.request(method, path, body, {"Content-Type": "application/json"})


def _checked(answer: Response, *expected: int) -> Response:
    if answer.status not in expected:
        raise RuntimeError(f"Label Studio answered {answer.status}: {answer.body[:300]!r}")
    return answer


def _postgresql(url: str) -> dict[str, str]:
    """Its variables for the database at this address."""
    parts = conninfo_to_dict(url)
    return {
        "DJANGO_DB": "default",
        "POSTGRE_HOST": str(parts.get("host", "localhost")),
        "POSTGRE_PORT": str(parts.get("port", 5432)),
        "POSTGRE_USER": str(parts.get("user", "postgres")),
        "POSTGRE_PASSWORD": str(parts.get("password", "")),
        "POSTGRE_NAME": str(parts.get("dbname", "postgres")),
        "SKIP_TRIGRAM_EXTENSION": "full",
        "SKIP_BTREE_GIN_EXTENSION": "full",
    }
