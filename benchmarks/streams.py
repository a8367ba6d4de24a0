"""Live dialogues at once: what one live process gives each of them, and what that costs.

uvicorn as the Procfile starts it, and a loopback sampler in a process of its own whose two models
talk at different paces::

    python -m benchmarks.streams --dialogues 8 32 64 128 --out streams.json
    python -m benchmarks.streams --database postgresql

Everyone sends a message at the same moment, or one after the other within ``--over`` seconds. A
step is a line that adds text to a page. The sides are counted in characters after every step: they
must never differ, however late a step comes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from benchmarks.annotation_servers.connection import wait_until_answering
from benchmarks.annotation_servers.tandem import Tandem
from benchmarks.annotators import cpu_seconds, database_processes, milliseconds
from tests.ports import free_port
from tests.postgresql import postgresql

TOKEN = "t" * 32
FASTER = 1.5  # times the pace of the other model
LOOK_SECONDS = 0.5


@dataclass
class Talk:
    """What one page saw of its turn."""

    sent: float = 0.0
    steps: list[float] = field(default_factory=list)
    characters: list[int] = field(default_factory=lambda: [0, 0])
    furthest: int = 0
    """Characters that one side has ever been ahead of the other."""
    ended: float = 0.0
    refusal: str = ""

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "text":
            self.steps.append(time.perf_counter())
            self.characters[0] += len(event["left"])
            self.characters[1] += len(event["right"])
            self.furthest = max(self.furthest, abs(self.characters[0] - self.characters[1]))
        elif event["event"] == "done":
            self.ended = time.perf_counter()
        elif event["event"] != "start":
            self.refusal = self.refusal or str(event)


async def converse(server: Tandem, port: int, session: str, wait: float) -> Talk:
    """Send a message as the page does, and follow what comes."""
    await asyncio.sleep(wait)
    body = urlencode({"text": "How do I descale my kettle?"}).encode()
    head = (
        f"POST /live/helpfulness/begin HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Origin: http://127.0.0.1:{server.port}\r\nX-CSRFToken: {TOKEN}\r\n"
        f"Cookie: sessionid={session}; csrftoken={TOKEN}\r\nAccept: application/json\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    talk = Talk(sent=time.perf_counter())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body)
    while line := await reader.readline():
        if line.startswith(b'{"event"'):  # what else comes is HTTP's
            talk.hear(json.loads(line))
        elif line.startswith(b'{"errors"') or line.startswith(b"HTTP/1.1 5"):
            talk.refusal = line.decode().strip()
    writer.close()
    if not talk.ended and not talk.refusal:
        talk.refusal = "the stream broke off"
    return talk


async def converse_all(
    server: Tandem, port: int, sessions: Sequence[str], live: psutil.Process, over: float
) -> tuple[list[Talk], dict[str, int]]:
    """Everyone's turn, and the most that the live process had meanwhile."""
    most = {"memory": 0, "threads": 0}

    async def look() -> None:
        while True:
            most["memory"] = max(most["memory"], live.memory_full_info().pss)
            most["threads"] = max(most["threads"], live.num_threads())
            await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    step = over / len(sessions)
    talks = await asyncio.gather(
        *(converse(server, port, session, n * step) for n, session in enumerate(sessions))
    )
    looking.cancel()
    return talks, most


def measure(
    server: Tandem,
    port: int,
    count: int,
    live: psutil.Process,
    upstream: psutil.Process,
    over: float = 0.0,
) -> dict[str, Any]:
    parts = {"live": [live], "database": database_processes(server), "upstream": [upstream],
             "pages": [psutil.Process()]}  # fmt: skip
    before = {name: cpu_seconds(processes) for name, processes in parts.items()}
    started = time.perf_counter()
    talks, most = asyncio.run(converse_all(server, port, server.sessions[:count], live, over))
    wall = time.perf_counter() - started
    spent = {name: cpu_seconds(processes) - before[name] for name, processes in parts.items()}
    done = [talk for talk in talks if talk.ended]
    streamed = sum(talk.ended - talk.sent for talk in done)
    between = [b - a for talk in done for a, b in zip(talk.steps, talk.steps[1:], strict=False)]
    return {
        "dialogues": count,
        "done": len(done),
        "refusal": next((talk.refusal for talk in talks if talk.refusal), ""),
        "seconds": round(wall, 1),
        "first_step_ms": milliseconds([talk.steps[0] - talk.sent for talk in done]),
        "step_interval_ms": milliseconds(between),
        "stored_ms": milliseconds([talk.ended - talk.steps[-1] for talk in done]),
        "furthest_apart": max((talk.furthest for talk in talks), default=0),
        "live_cpu_ms_per_stream_second": round(1000 * spent["live"] / max(1.0, streamed), 2),
        "cores": {name: round(seconds / wall, 2) for name, seconds in spent.items()},
        "memory_mib": round(most["memory"] / 2**20, 1),
        "threads": most["threads"],
    }


def line(row: dict[str, Any]) -> str:
    first, step, stored = row["first_step_ms"], row["step_interval_ms"], row["stored_ms"]
    return (
        f"{row['dialogues']:>4} dialogues, {row['done']} done in {row['seconds']} s: first step "
        f"p50/p95 {first.get('p50')}/{first.get('p95')} ms, step p50/p95/p99 {step.get('p50')}/"
        f"{step.get('p95')}/{step.get('p99')} ms, stored p95 {stored.get('p95')} ms, apart by "
        f"{row['furthest_apart']}, CPU {row['live_cpu_ms_per_stream_second']} ms each second, "
        f"{row['memory_mib']} MiB, {row['threads']} threads, cores {row['cores']}"
        + (f"; {row['refusal'][:160]}" if row["refusal"] else "")
    )


def release(names: Sequence[str]) -> None:
    """Inside Django: chat models of these names, released."""
    from annotation_app import storage
    from annotation_app.models import Checkpoint, Release

    for name in names:
        checkpoint = Checkpoint.objects.create(
            kind=Checkpoint.Kind.CHAT, name=f"chat model {name}", storage_key=f"models/{name}"
        )
        storage.path(checkpoint.storage_key).mkdir(parents=True)
        Release.objects.create(checkpoint=checkpoint)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dialogues", nargs="+", type=int, default=[8, 32, 64, 128])
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--over", type=float, default=0.0, help="seconds within which they begin")
    parser.add_argument("--rate", type=float, default=30.0, help="tokens a second, slower model")
    parser.add_argument("--tokens", type=int, default=450, help="of four characters, per answer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    names = [f"one-{arguments.rate:g}-{arguments.tokens}",
             f"two-{FASTER * arguments.rate:g}-{arguments.tokens}"]  # fmt: skip
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streams-")))
        durable = arguments.database == "postgresql"
        url = stack.enter_context(postgresql(durable=True)) if durable else ""
        upstream_port, port = free_port(), free_port()
        upstream = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._upstream", str(upstream_port)]
        )
        stack.callback(upstream.terminate)
        server = Tandem(folder, url, LIVE_PORT=str(port),
                        SAMPLER_URL=f"http://127.0.0.1:{upstream_port}")  # fmt: skip
        server.prepare([], max(arguments.dialogues))
        server.manage("shell", "--no-imports", "-c",
                      f"from benchmarks.streams import release; release({names!r})")  # fmt: skip
        live = server.begin("live")
        wait_until_answering(live, port, "/live/", 60, "The live process", status=404)
        stack.callback(live.terminate)
        ours = psutil.Process(live.pid), psutil.Process(upstream.pid)
        found = [{"warm_up": measure(server, port, 2, *ours)}]
        for count in arguments.dialogues:
            found.append(measure(server, port, count, *ours, arguments.over))
            print(line(found[-1]), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
