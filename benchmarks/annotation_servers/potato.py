"""Potato 2.12.1 with a pairwise task, driven by the requests of its own annotation page."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.annotation_servers import Item
from benchmarks.annotation_servers.connection import Connection, Response, wait_until_answering
from tests.ports import free_port

CHOICES = range(-7, 8, 2)
CONFIG = {
    "annotation_task_name": "Preference",
    "task_dir": ".",
    "output_annotation_dir": "annotation_output",
    "data_files": ["items.jsonl"],
    "item_properties": {"id_key": "id", "text_key": "prompt"},
    "require_password": False,
    "user_config": {"allow_all_users": True, "users": []},
    "assignment_strategy": "fixed_order",
    "num_annotators_per_item": 1,
    "max_annotations_per_user": -1,
    "interaction_tracking": {"enabled": False},
    "annotation_schemes": [
        {
            "annotation_type": "pairwise",
            "mode": "scale",
            "name": "preference",
            "description": "Which answer is better?",
            "items_key": "answers",
            "labels": ["Answer A", "Answer B"],
            "scale": {"min": CHOICES[0], "max": CHOICES[-1], "step": CHOICES.step, "default": 1},
            "label_requirement": {"required": True},
        }
    ],
}


class Potato:
    """Potato as installed (`potato start`), or under gunicorn as its documentation suggests.

    The settings that serve it best among the documented ones:

    - Items in fixed order, Potato's default strategy and the one that finds a free item soonest;
      one annotator per item; no limit per annotator, so that items are given out one at a time.
    - No debug mode and no verbose log. The stream of clicks and scrolling, which Potato writes
      into an annotator's file with every answer, is off (`interaction_tracking`).
    - gunicorn: one worker with 8 threads and a timeout of 120 s, as `docker-entrypoint.sh` starts
      it, without the access log. It refuses more workers: each would have its own item pool.

    The 8-point choice is Potato's pairwise scale: -7, -5, ... 7, without a middle.
    """

    def __init__(
        self, python: Path, folder: Path, gunicorn: bool = False, only_essential: bool = False
    ) -> None:
        """`only_essential` leaves out what the page sends without the annotator waiting for it."""
        self.name = "Potato, gunicorn" if gunicorn else "Potato"
        self.folder, self.port, self.only_essential = folder, free_port(), only_essential
        if gunicorn:
            words = ["gunicorn", "--no-control-socket", "--bind", f"127.0.0.1:{self.port}"]
            words += ["--workers", "1", "--threads", "8", "--timeout", "120"]
            words += ["potato.flask_server:create_app('config.yaml')"]
        else:
            words = ["potato", "start", "config.yaml", "--host", "127.0.0.1", "-p", str(self.port)]
        self.command = [str(python), "-m", *words]

    def start(self, items: list[Item], annotators: int) -> None:
        """Write the project, serve it, and wait until it is ready.

        Annotators register as they sign in, so their number is not needed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(json.dumps(CONFIG, indent=2))  # JSON is YAML
        with (self.folder / "items.jsonl").open("w", encoding="utf-8") as lines:
            for number, item in enumerate(items):
                row = {"id": f"{number:06d}", "prompt": item.prompt, "answers": [item.a, item.b]}
                lines.write(json.dumps(row) + "\n")
        templates = {"POTATO_GENERATED_TEMPLATES_DIR": str(self.folder / "templates")}
        with (self.folder / "server.log").open("w") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env={**os.environ, **templates},
                stdout=log, stderr=log,
            )  # fmt: skip
        what = f"{self.name} (see {self.folder}/server.log)"
        wait_until_answering(self.process, self.port, "/health", 120, what)

    def annotator(self, number: int) -> PotatoAnnotator:
        return PotatoAnnotator(self.port, f"annotator{number}", self.only_essential)

    def stored(self) -> tuple[int, int]:
        """(annotations stored on disk, items that carry more than one annotation)."""
        labels: Counter[str] = Counter()
        for state in self.folder.glob("annotation_output/*/user_state.json"):
            found = json.loads(state.read_text(encoding="utf-8"))["instance_id_to_label_to_value"]
            labels.update(item for item, given in found.items() if given)
        return labels.total(), sum(n > 1 for n in labels.values())

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


class PotatoAnnotator:
    """What the annotation page sends, as recorded with Chromium and found in `annotation.js`.

    One annotation is a move of the slider and a click on "Next" within half a second (whoever
    takes longer has the choice stored twice). The click stores the choice, has the server move
    on, and loads the page anew. Scripts and styles are not fetched: a browser keeps them.
    """

    def __init__(self, port: int, name: str, only_essential: bool) -> None:
        self.connection, self.only_essential = Connection("127.0.0.1", port), only_essential
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        body = f"action=login&email={name}".encode()
        if (answer := self.connection.request("POST", "/auth", body, form)).status != 302:
            raise RuntimeError(f"POST /auth answered {answer.status}: {answer.body[:200]!r}")
        self.stored: str | None = None
        self._load()
        if self.item is None:
            raise RuntimeError(f"{name} is shown no item")
        self._settle()

    def annotate(self) -> tuple[float, float] | None:
        """Store a choice for the item in view and bring the next into view.

        Returns (seconds until the next item's page had arrived, seconds of the storing request),
        or None when no item is in view any more. With the last answer, the first are the seconds
        until the closing page. Raises RuntimeError where the server answers with an error. If that
        comes in place of the next item, the choice is stored, and the next call goes on from there.
        """
        if self.stored is not None:  # An error came in place of the next item: a person reloads.
            self._load()
            if self.item == self.stored:
                self._move_on()
            self.stored = None
        if self.item is None:
            return None
        done, loaded, choice = self.item, self.shown, str(random.choice(CHOICES))
        if not self.only_essential:
            self._post(
                "/api/track_annotation_change",
                instance_id=done, schema_name="preference", label_name="scale_value",
                action="update", old_label=None, old_value=None, new_value=choice, source="user",
            )  # fmt: skip
        started = time.perf_counter()
        answer = self._post(
            "/updateinstance",
            instance_id=done, annotations={"preference:scale_value": choice},
            cleared_schemas=[], span_annotations=[],
            client_timestamp=datetime.now(UTC).isoformat(timespec="milliseconds"),
            response_time_seconds=round(time.time() - loaded, 3),
        )  # fmt: skip
        storing = time.perf_counter() - started
        if (status := json.loads(answer.body)["status"]) != "success":
            raise RuntimeError(f"/updateinstance answered {status}: {answer.body[:200]!r}")
        self.stored = done
        self._move_on()
        arrived = time.perf_counter() - started
        if not self.only_essential:
            self._report(done, loaded)
            self._settle()
        return arrived, storing

    def _move_on(self) -> None:
        """From the item whose choice is stored to the next."""
        self._post("/annotate", action="next_instance", instance_id=self.stored)
        self._load()
        if self.item == self.stored:  # The server had nothing to move on to.
            self.item = None
        self.stored = None

    def _load(self) -> None:
        """The page with the item in view, or the closing page once nothing is left."""
        page = self._request("GET", "/annotate")
        found = re.search(rb'<input id="instance_id"[^>]* value="([^"]+)"', page.body)
        self.item, self.shown = found and found[1].decode(), time.time()

    def _settle(self) -> None:
        """What the scripts ask for in every new page, in the order recorded."""
        if self.item is None or self.only_essential:
            return
        colors, spans = "/api/colors", f"/api/spans/{self.item}"
        highlights = f"/api/keyword_highlights/{self.item}"
        first = (colors, spans, "/pocket/api/routing", highlights)
        for path in (*first, "/api/schemas", colors, spans, highlights, highlights):
            self._request("GET", path)

    def _report(self, item: str, loaded: float) -> None:
        """The times at the item, which the page sends as it unloads."""
        left = time.time()
        steps: list[tuple[float, str, str, dict[str, str | None]]] = [
            (loaded, "navigation", "instance_load", {"instance_id": item, "from_instance": None}),
            (left, "activity", "", {}),
            (left, "navigation", "next", {"from_instance": item, "to_instance": None}),
            (left, "save", f"instance:{item}", {}),
        ]
        events = [
            {
                "event_type": kind, "timestamp": at, "client_timestamp": int(at * 1000),
                "target": target, "instance_id": item, "metadata": metadata,
            }
            for at, kind, target, metadata in steps
        ]  # fmt: skip
        self._post(
            "/api/track_interactions",
            instance_id=item, events=events, focus_time={}, scroll_depth=0,
        )  # fmt: skip

    def _post(self, path: str, **fields: object) -> Response:
        return self._request("POST", path, json.dumps(fields).encode())

    def _request(self, method: str, path: str, body: bytes = b"") -> Response:
        headers, accepted = {"Content-Type": "application/json"} if body else {}, [200]
        if (method, path) == ("POST", "/annotate"):
            headers["X-Potato-Navigation"] = "1"  # Without it, the answer is the whole page.
            accepted.append(302)  # Nothing is left.
        answer = self.connection.request(method, path, body, headers)
        if answer.status not in accepted:
            raise RuntimeError(f"{method} {path} answered {answer.status}: {answer.body[:200]!r}")
        return answer
