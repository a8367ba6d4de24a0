"""Many annotators at once, killed and late ones among them: is every acknowledged answer there?

``python -m tests.annotators_at_once`` runs gunicorn as the Procfile does and lets annotators answer
over sockets, in processes of their own that write down each acknowledgement. On the way client
processes and the web server are killed (SIGKILL), leases run out, and late answers come. Afterwards
the acknowledgements are held against the database. A small form of it is part of ``make test``,
the large one of ``make proof``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.annotation_servers import Item
from benchmarks.annotation_servers.tandem import ROOT, Tandem, TandemAnnotator
from tests.postgresql import postgresql

LEASE_SECONDS = 5
IMPATIENT = {"LEASE_SECONDS": str(LEASE_SECONDS), "HEARTBEAT_SECONDS": "1"}
CLIENT_PROCESSES = 8
LATE, AWAY = 0.04, 0.04  # shares of answers that come after the lease, and of those never given
PREFERENCES = [f"{side}_{how}better" for side in ("left", "right") for how in ("", "slightly_")]
SWEEP = """
import time
from annotation_app.models import Annotation
while True:
    Annotation.objects.expire()
    time.sleep(1)
"""
DUMP = """
import json
from annotation_app.models import *
fields = (
    "id", "comparison", "annotator", "state", "slot", "shown_left", "choice", "strength", "purpose"
)
print(json.dumps({
    "annotations": list(Annotation.objects.values_list(*fields)),
    "comparisons": list(Comparison.objects.values_list("id", "overlap", "open_slots")),
}))
"""
PROBES = """
from annotation_app.models import Comparison, Organisation, Person, Reference
by = Person.objects.first()
Organisation.objects.create(pk=1, reference_rate=0.1, pauses_by_itself=False)
for known in Comparison.objects.order_by("?")[:40]:
    Reference.set(known, "a", "Only to be served.", by=by)
"""
DROP = """
from django.db import connection
from annotation_app.models import Annotation
slots = next(c for c in Annotation._meta.constraints if c.name == "annotation_one_live_per_slot")
with connection.schema_editor() as editor:
    editor.remove_constraint(Annotation, slots)
"""


@dataclass
class Findings:
    """What the run did, and, in the last seven, what must be 0."""

    acknowledged: int = 0
    recorded: int = 0
    surplus: int = 0
    references: int = 0
    """Of the recorded ones; they hold no slot."""
    expired: int = 0
    client_kills: int = 0
    server_kills: int = 0
    missing: int = 0
    """Acknowledged, but neither recorded nor kept as surplus."""
    altered: int = 0
    """Stored with another answer than the one acknowledged."""
    unknown: int = 0
    """Recorded for people who never sent it."""
    over: int = 0
    """Comparisons with more answers than their overlap."""
    doubled: int = 0
    """Slots, or people, with two live answers to one comparison."""
    stuck: int = 0
    """Leases that never ended, and slots that nobody holds and nobody can get."""
    refused: int = 0
    """Answers with an error other than a lost lease."""

    @property
    def faults(self) -> int:
        return (
            self.missing + self.altered + self.unknown + self.over + self.doubled + self.stuck
            + self.refused
        )  # fmt: skip


def prove(
    server: Tandem, annotators: int, answers: int, kills: int, slot_constraint: bool = True
) -> Findings:
    """Run it; the server is started and stopped here. ``kills`` of clients, one of the server."""
    findings = Findings()
    log = server.folder / "log"
    log.mkdir(parents=True)
    items = [
        Item(f"Question {n}?", "One answer.", "Another.") for n in range(annotators * answers // 2)
    ]
    server.start(items, annotators, overlap=2)
    server.manage("shell", "--no-imports", "-c", PROBES)
    if not slot_constraint:
        server.manage("shell", "--no-imports", "-c", DROP)
    sweeper = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", SWEEP],
        cwd=ROOT, env=server.environment,
    )  # fmt: skip
    (log / "sessions.json").write_text(json.dumps(server.sessions))
    groups = [list(range(first, annotators, CLIENT_PROCESSES)) for first in range(CLIENT_PROCESSES)]
    clients = [start_client(server, log, group, answers) for group in groups if group]
    try:
        rng = random.Random(annotators)
        for kill in range(kills):
            time.sleep(rng.uniform(0.5, 2.0))
            number = rng.randrange(len(clients))
            if clients[number].poll() is None:
                clients[number].kill()
                findings.client_kills += 1
                clients[number].wait()
                clients[number] = start_client(server, log, groups[number], answers)
            if kill == kills // 2:
                kill_server(server)
                findings.server_kills += 1
                server.launch()
        for client in clients:
            client.wait(600)
        time.sleep(LEASE_SECONDS + 3)
    finally:
        for process in [*clients, sweeper]:
            process.kill()
            process.wait()
        server.stop()
    compare(server, log, findings)
    return findings


def start_client(
    server: Tandem, log: Path, group: list[int], answers: int
) -> subprocess.Popen[bytes]:
    numbers = ",".join(map(str, group))
    command = [sys.executable, "-m", "tests.annotators_at_once", "--client", str(log), numbers]
    return subprocess.Popen([*command, str(server.port), str(answers)], cwd=ROOT)


def kill_server(server: Tandem) -> None:
    """The master and its workers at once: nothing is finished, nothing is said goodbye to."""
    for process in server.processes():
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(server.processes(), timeout=5)
    server.process.wait()


def compare(server: Tandem, log: Path, findings: Findings) -> None:
    """Hold the clients' logs against the database."""
    found = json.loads(server.manage("shell", "--no-imports", "-c", DUMP))
    rows = {row[0]: row for row in found["annotations"]}
    acknowledged = dict(entries(log, "acknowledged"))
    sent = set(acknowledged) | {number for number, _ in entries(log, "sent")}
    states = Counter(row[3] for row in rows.values())
    findings.acknowledged = len(acknowledged)
    findings.recorded, findings.surplus = states["recorded"], states["surplus"]
    findings.expired = states["expired"]
    for number, why in entries(log, "refused"):
        findings.refused += 1
        print(f"#{number} was refused: {why}", file=sys.stderr)
    for number, preference in acknowledged.items():
        _, _, _, state, _, shown_left, choice, strength, _ = rows[number]
        side = "left" if choice == shown_left else "right"
        findings.missing += state not in ("recorded", "surplus")
        findings.altered += f"{side}_{strength}" != preference
    recorded = [row for row in rows.values() if row[3] == "recorded"]
    findings.unknown = sum(row[0] not in sent for row in recorded)
    work = [row for row in recorded if row[8] == "work"]
    findings.references = len(recorded) - len(work)
    by_comparison = Counter(row[1] for row in work)
    findings.doubled = len(work) - len({(row[1], row[4]) for row in work})
    findings.doubled += len(recorded) - len({(row[1], row[2]) for row in recorded})
    findings.stuck = states["leased"]
    for comparison, overlap, open_slots in found["comparisons"]:
        findings.over += by_comparison[comparison] > overlap
        findings.stuck += open_slots != overlap - by_comparison[comparison]


def entries(log: Path, kind: str) -> Iterator[tuple[int, str]]:
    """(annotation, preference) of the clients' log lines of one kind."""
    for file in log.glob("*.log"):
        for line in file.read_text(encoding="utf-8").splitlines():
            words = line.split(" ")
            if len(words) == 3 and words[0] == kind:
                yield int(words[1]), words[2]


# --- the client processes ----------------------------------------------------------------------


def be_client(log: Path, group: list[int], port: int, answers: int) -> None:
    sessions = json.loads((log / "sessions.json").read_text(encoding="utf-8"))
    threads = [
        threading.Thread(target=be_annotator, args=(log / f"{n}.log", port, sessions[n], answers))
        for n in group
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def be_annotator(file: Path, port: int, session: str, answers: int) -> None:
    """Answer until enough is acknowledged or nothing is left; after an error, come back."""
    rng = random.Random()
    idle = 0
    with file.open("a", encoding="utf-8", buffering=1) as log:

        def write(kind: str, number: int, preference: str) -> None:
            log.write(f"{kind} {number} {preference}\n")

        while idle < 3 and count_lines(file, "acknowledged") < answers:
            try:
                annotator = TandemAnnotator(port, session)
                idle = idle + 1 if annotator.shown is None else 0
                if annotator.shown is None:
                    time.sleep(LEASE_SECONDS / 2)
                answer_all(annotator, write, rng, answers - count_lines(file, "acknowledged"))
            except OSError:
                time.sleep(0.2)  # the server is away


def answer_all(annotator: TandemAnnotator, write, rng: random.Random, answers: int) -> None:
    while answers > 0 and annotator.shown is not None:
        number, preference = annotator.shown, rng.choice(PREFERENCES)
        fate = rng.random()
        if fate < AWAY:
            return
        if fate < AWAY + LATE:
            time.sleep(LEASE_SECONDS + 1.5)
        write("sent", number, preference)
        for _ in range(100):
            try:
                annotator.annotate(preference)
                break
            except RuntimeError as error:
                if " answered 409" not in str(error):
                    write("refused", number, "_".join(str(error).split())[:400])
                return
            except OSError:
                time.sleep(0.2)  # sent again, the same
        else:
            return
        write("acknowledged", number, preference)
        answers -= 1


def count_lines(file: Path, kind: str) -> int:
    return sum(line.startswith(kind) for line in file.read_text(encoding="utf-8").splitlines())


# --- by hand -----------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--annotators", type=int, default=128)
    parser.add_argument("--answers", type=int, default=20, help="of each annotator")
    parser.add_argument("--kills", type=int, default=12, help="of client processes")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--without-slot-constraint", action="store_true", help="must then fail")
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.client:
        log, numbers, port, answers = arguments.client
        be_client(Path(log), [int(n) for n in numbers.split(",")], int(port), int(answers))
        return
    faults = 0
    for database in arguments.databases:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="annotators-at-once-"))
            url = stack.enter_context(postgresql(durable=True)) if database == "postgresql" else ""
            server = Tandem(Path(folder), url, **IMPATIENT)
            findings = prove(
                server, arguments.annotators, arguments.answers, arguments.kills,
                not arguments.without_slot_constraint,
            )  # fmt: skip
            print(f"{database}: {asdict(findings)}, faults: {findings.faults}", flush=True)
            faults += findings.faults
    if faults:
        sys.exit(f"{faults} faults")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
