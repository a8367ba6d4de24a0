"""Annotators without think time, and at a fixed rate, against Tandem, Potato and Label Studio.

The same client and the same items for each server, one server after the other::

    python -m benchmarks.annotators --servers tandem-sqlite tandem-postgresql potato \\
        --potato-python VENV/bin/python --items 1000 --out results.json

Closed loop: each annotator stores a judgement, has the next comparison in view, and judges again.
Open loop: judgements fall due at a fixed rate, whoever of the annotators is free sends the next
one, and its time counts from when it was due. Afterwards the server's own store is counted: what
was accepted must be there, once.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.annotation_servers import Item
from benchmarks.annotation_servers.tandem import Tandem
from tests.postgresql import postgresql

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "demo" / "data" / "hh-harmless-base.jsonl.gz"
WARM_UP_SECONDS = 3
OVERLAP = 8


@dataclass
class Load:
    """What a number of annotators saw, and what the server spent on it."""

    accepted: int = 0
    seconds: float = 0.0
    next_seconds: list[float] = field(default_factory=list)
    submit_seconds: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    web_cpu_seconds: float = 0.0
    database_cpu_seconds: float = 0.0
    memory: int = 0
    """Bytes that the server's processes have for themselves (PSS), largest process first."""

    def row(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "per_second": self.accepted / self.seconds if self.seconds else 0.0,
            "next_ms": milliseconds(self.next_seconds),
            "submit_ms": milliseconds(self.submit_seconds),
            "web_cpu_ms": 1000 * self.web_cpu_seconds / max(1, self.accepted),
            "database_cpu_ms": 1000 * self.database_cpu_seconds / max(1, self.accepted),
            "memory_mib": self.memory / 2**20,
            "refused": len(self.refused),
            "first_refusal": self.refused[0] if self.refused else "",
        }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile and largest, in milliseconds."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    found = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {name: round(1000 * value, 1) for name, value in found.items()}


def closed_loop(server: Any, annotators: list[Any], seconds: float) -> Load:
    """Everyone judges as fast as the server lets them."""
    load, lock = Load(), threading.Lock()
    deadline = time.perf_counter() + seconds

    def work(annotator: Any) -> None:
        mine: list[tuple[float, float]] = []
        while time.perf_counter() < deadline:
            try:
                times = annotator.annotate()
            except (RuntimeError, OSError) as error:
                load.refused.append(str(error))
                continue
            if times is None:
                break
            mine.append(times)
        with lock:
            load.next_seconds += [times[0] for times in mine]
            load.submit_seconds += [times[1] for times in mine]

    with spent(server, load):
        in_threads(work, annotators)
    load.accepted = len(load.submit_seconds)
    return load


def open_loop(server: Any, annotators: list[Any], seconds: float, rate: float) -> Load:
    """Judgements fall due at a fixed rate; waiting for a free annotator counts."""
    load, lock = Load(), threading.Lock()
    due: queue.Queue[float | None] = queue.Queue()

    def work(annotator: Any) -> None:
        while (at := due.get()) is not None:
            started = time.perf_counter()
            try:
                times = annotator.annotate()
            except (RuntimeError, OSError) as error:
                load.refused.append(str(error))
                continue
            if times is None:
                break
            waited = started - at
            with lock:
                load.next_seconds.append(waited + times[0])
                load.submit_seconds.append(waited + times[1])

    def pace() -> None:
        begin = time.perf_counter()
        for number in range(int(seconds * rate)):
            at = begin + number / rate
            time.sleep(max(0.0, at - time.perf_counter()))
            due.put(at)
        for _ in annotators:
            due.put(None)

    with spent(server, load):
        threading.Thread(target=pace, daemon=True).start()
        in_threads(work, annotators)
    load.accepted = len(load.submit_seconds)
    return load


def in_threads(work: Callable[[Any], None], annotators: list[Any]) -> None:
    threads = [threading.Thread(target=work, args=(one,)) for one in annotators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def spent(server: Any, load: Load) -> Iterator[None]:
    """Wall-clock time, CPU time of the server and its database, and memory at the end."""
    web, database = cpu_seconds(server.processes()), cpu_seconds(database_processes(server))
    started = time.perf_counter()
    yield
    load.seconds = time.perf_counter() - started
    load.web_cpu_seconds = cpu_seconds(server.processes()) - web
    load.database_cpu_seconds = cpu_seconds(database_processes(server)) - database
    load.memory = sum(process.memory_full_info().pss for process in server.processes())


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """User and system time of these processes so far."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def database_processes(server: Any) -> list[psutil.Process]:
    """The PostgreSQL server that this run started for it, with its backends."""
    url = getattr(server, "database_url", "")
    if not url:
        return []
    port = url.rsplit(":", 1)[1].split("/")[0]
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "postgres" and port in (process.info["cmdline"] or []):
            return [process, *process.children(recursive=True)]
    return []


def real_items(count: int) -> list[Item]:
    """The shipped HH-RLHF comparisons, repeated with a number in front until there are enough."""
    import gzip

    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = []
    for number in range(count):
        row = rows[number % len(rows)]
        history, _, chosen = row["chosen"].rpartition("\n\nAssistant:")
        _, _, rejected = row["rejected"].rpartition("\n\nAssistant:")
        found.append(Item(f"{number}. {history.strip()}", chosen.strip(), rejected.strip()))
    return found


def make_server(name: str, folder: Path, arguments: argparse.Namespace, stack: ExitStack) -> Any:
    """The server of this name, with a database of its own where it takes one."""
    url = stack.enter_context(postgresql(durable=True)) if "postgresql" in name else ""
    if name.startswith("tandem"):
        return Tandem(folder, url)
    if name.startswith("potato"):
        from benchmarks.annotation_servers.potato import Potato

        # Of the peers' requests only those that an annotator waits for.
        gunicorn = name.endswith("gunicorn")
        return Potato(arguments.potato_python, folder, gunicorn, only_essential=True)
    from benchmarks.annotation_servers.label_studio import LabelStudio

    return LabelStudio(arguments.label_studio_python, folder, url, only_essential=True)


SERVERS = (
    "tandem-sqlite", "tandem-postgresql", "potato", "potato-gunicorn", "label-studio",
    "label-studio-postgresql",
)  # fmt: skip


def measure(name: str, items: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One server at one size: closed loop, open loop, then what it has stored."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="annotators-")))
        server = make_server(name, folder, arguments, stack)
        most = max(arguments.annotators)
        if isinstance(server, Tandem):  # fast enough to use a small batch up within the run
            server.start(real_items(items), most, overlap=OVERLAP)
        else:
            server.start(real_items(items), most)
        stack.callback(server.stop)
        everyone = [server.annotator(number) for number in range(most)]
        loads = [closed_loop(server, everyone[:8], WARM_UP_SECONDS)]
        found: dict[str, Any] = {"server": server.name, "items": items, "closed": {}}
        for count in arguments.annotators:
            loads.append(closed_loop(server, everyone[:count], arguments.seconds))
            found["closed"][count] = loads[-1].row()
            print(line(server.name, items, f"{count} annotators", found["closed"][count]))
        if arguments.rate:
            loads.append(open_loop(server, everyone, arguments.seconds, arguments.rate))
            found["open"] = loads[-1].row()
            print(line(server.name, items, f"{arguments.rate:g}/s", found["open"]))
        stored, over = server.stored()
        accepted = sum(load.accepted for load in loads)
        found |= {"accepted": accepted, "stored": stored, "judged_too_often": over}
        print(f"{'':24} accepted {accepted}, stored {stored}, items judged too often {over}")
        return found


def line(server: str, items: int, how: str, row: dict[str, Any]) -> str:
    following, submit = row["next_ms"], row["submit_ms"]
    return (
        f"{server:24} {items:>7} items, {how:>14}: {row['per_second']:7.1f}/s, next p50/p95/max "
        f"{following.get('p50')}/{following.get('p95')}/{following.get('max')} ms, submit p95 "
        f"{submit.get('p95')} ms, CPU {row['web_cpu_ms']:.2f} + {row['database_cpu_ms']:.2f} ms, "
        f"{row['memory_mib']:.0f} MiB"
        + (f", refused {row['refused']}: {row['first_refusal'][:120]}" if row["refused"] else "")
    )


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS[:2])
    parser.add_argument("--items", nargs="+", type=int, default=[1_000])
    parser.add_argument("--annotators", nargs="+", type=int, default=[8], help="in turn")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--rate", type=float, default=0.0, help="of the open loop, per second")
    parser.add_argument("--potato-python", type=Path, help="interpreter with potato-annotation")
    parser.add_argument("--label-studio-python", type=Path, help="interpreter with label-studio")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    sys.setswitchinterval(0.0005)  # the annotators are threads that mostly wait
    found = []
    for items in arguments.items:
        for name in arguments.servers:
            found.append(measure(name, items, arguments))
            if arguments.out:
                arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
