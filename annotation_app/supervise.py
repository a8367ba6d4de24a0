"""One child process of work, watched: its figures, its log and its end become the Run's."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import OperationalError, close_old_connections
from django.utils import timezone

from annotation_app import exchange, measuring
from annotation_app.lifecycle import runs
from annotation_app.models import Run
from annotation_app.models.run import storable
from reward.run_folder import ATTEMPT_VARIABLE, PARENT_VARIABLE, RunFolder

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
TERMINATE_SECONDS = 10.0
LOCK_WAIT_SECONDS = 20.0


def supervise(run: Run) -> None:
    """Run the child of a claimed run to its end.

    The worker stays alive whatever the child does; when the worker dies, the child's own watch on
    its parent ends it.
    """
    folder = exchange.run_folder(run)
    folder.path.mkdir(parents=True, exist_ok=True)
    if not _wait_until_free(folder):
        run.requeue()
        return
    try:
        child = _start(run, folder)
    except ValueError as error:
        runs.run_failed(run, str(error))
        return
    except OSError as error:
        runs.run_failed(run, f"Its process could not be started: {error}")
        return
    try:
        cancelled = _watch(run, folder, child)
    finally:
        _end_group(child)
    _report_end(run, folder, child.returncode, cancelled)


def _start(run: Run, folder: RunFolder) -> subprocess.Popen[bytes]:
    """Raises ValueError for a run that is refused, OSError where there is no such launcher."""
    words = exchange.command(run)
    with folder.log_file.open("ab") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=settings.BASE_DIR,
            env=child_environment(run),
        )


def child_environment(run: Run) -> dict[str, str]:
    """The child sees neither the database nor the secret key, and never reaches for a hub; only
    what asks the configured judge sees the judge's key, and only what asks the configured sampler
    the sampler's."""
    return {
        **{name: value for name, value in os.environ.items() if not _is_hidden(name)},
        **({"JUDGE_API_KEY": settings.JUDGE_API_KEY} if _asks_the_judge(run) else {}),
        **({"SAMPLER_API_KEY": settings.SAMPLER_API_KEY} if _asks_the_sampler(run) else {}),
        PARENT_VARIABLE: f"{os.getpid()}@{socket.gethostname()}",
        ATTEMPT_VARIABLE: str(run.attempt),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(settings.BASE_DIR),
    }


def _is_hidden(name: str) -> bool:
    own = ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
    keys = ("SAMPLER_API_KEY", "SCORER_API_KEY", "JUDGE_API_KEY")
    return name in (*own, *keys) or name.endswith("PASSWORD")


def _asks_the_judge(run: Run) -> bool:
    if not settings.JUDGE_API_KEY:
        return False
    asks = run.config.get(run.kind, {}).get("judge_address") == settings.JUDGE_URL
    return asks or run.kind == Run.Kind.REWARD_JUDGING


def _asks_the_sampler(run: Run) -> bool:
    return bool(settings.SAMPLER_API_KEY and exchange.sampler_address(run))


def _wait_until_free(folder: RunFolder) -> bool:
    """An earlier attempt's child may take a moment to notice that its worker is gone."""
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while folder.is_held():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _watch(run: Run, folder: RunFolder, child: subprocess.Popen[bytes]) -> bool:
    """Copy progress into the row until the child ends; True when it was cancelled.

    Raises OperationalError where the database is away for longer than a child may be silent.
    """
    reached = time.monotonic()
    while child.poll() is None:
        time.sleep(POLL_SECONDS)
        try:
            if not report_progress(run, folder):
                return False  # a newer attempt owns this run
            if Run.objects.filter(pk=run.pk, cancel_requested=True).exists():
                return True
            reached = time.monotonic()
        except OperationalError as error:
            if time.monotonic() - reached > settings.RUN_HEARTBEAT_TIMEOUT_SECONDS:
                raise
            log.warning("%s works on, but the database is away: %s", run, error)
            close_old_connections()
    report_progress(run, folder)
    return False


def report_progress(run: Run, folder: RunFolder) -> bool:
    """The child's own progress is the heartbeat: no new figures, no new heartbeat. But while it has
    not taken its folder (it loads its libraries, or waits in a cluster's queue) that it lives is
    one, for as long as it may be silent."""
    last, seen = measuring.progress(folder)
    progress: dict[str, object] = {"log_tail": storable(folder.log_tail())}
    heartbeat = None
    if last is not None:
        progress |= {"step": last["step"], "total_steps": last["total"], "figures": last}
        heartbeat = datetime.fromtimestamp(seen, UTC)
        if run.started_at and heartbeat < run.started_at:
            heartbeat = None
    if heartbeat is None and run.started_at and not folder.is_held():
        now, patience = timezone.now(), timedelta(seconds=settings.RUN_HEARTBEAT_TIMEOUT_SECONDS)
        heartbeat = now if now - run.started_at < patience else None
    return run.report(heartbeat_at=heartbeat, **progress)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Stop the child's whole process group: politely, then for certain."""
    for sign, patience in ((signal.SIGTERM, TERMINATE_SECONDS), (signal.SIGKILL, None)):
        if child.poll() is not None and sign is signal.SIGTERM:
            break
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    child.wait()


def _report_end(run: Run, folder: RunFolder, status: int, cancelled: bool) -> None:
    if cancelled:
        runs.run_cancelled(run)
        return
    result = folder.result()
    if status == 0 and result is not None:
        try:
            runs.run_succeeded(run, result)
        except OperationalError:
            raise  # the database is away: the result lies there, and the next attempt stores it
        except Exception as error:
            log.exception("The result of %s could not be stored.", run)
            run.refresh_from_db()
            runs.run_failed(run, f"its result could not be stored: {error!r}")
        return
    if status < 0 and not run.has_tried_enough:
        run.requeue()  # killed from outside: it goes on from its last checkpoint
        return
    how = f"signal {-status}" if status < 0 else f"status {status}"
    tail = folder.log_tail(12) or "it printed nothing"
    runs.run_failed(run, f"The process ended with {how}.\n{tail}")
