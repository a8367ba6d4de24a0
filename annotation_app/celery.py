"""The queue. Rows are the truth: tasks carry ids, acknowledge early and store no results."""

import logging
import os

from celery import Celery
from django.conf import settings
from kombu.exceptions import OperationalError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotation_app.settings")
log = logging.getLogger(__name__)

app = Celery("tandem")
app.conf.update(
    broker_url=settings.REDIS_URL,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "socket_connect_timeout": 2,
        "socket_timeout": 10,
        # A click never waits for a dead Redis: one more try, at once.
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0,
        "interval_max": 0,
    },
    task_ignore_result=True,
    task_acks_late=False,
    task_routes={"annotation_app.tasks.start_run": {"queue": "gpu"}},
    task_default_queue="default",
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    timezone="UTC",
    beat_schedule_filename=str(settings.VAR_DIR / "celerybeat-schedule"),
    beat_schedule={
        name.replace("_", " "): {
            "task": f"annotation_app.tasks.{name}",
            "schedule": float(beats * settings.BEAT_SECONDS),
            "options": {"expires": beats * settings.BEAT_SECONDS},
        }
        for name, beats in (
            ("expire_leases", 1),
            ("turn_batches", 1),
            ("rescue_runs", 1),
            ("advance_rounds", 1),
            ("finish_attempts", 1),
            ("pause_annotators", 20),  # reads a fortnight of answers of everyone at work
        )
    },
)
app.autodiscover_tasks(["annotation_app"])


def send(task: str, *ids: int, expires: float | None = None) -> None:
    """Hand ids to a task by its name.

    A broker that is down loses nothing: the rows say what there is to do, and the periodic tasks
    find them.
    """
    try:
        app.send_task(f"annotation_app.tasks.{task}", ids, retry=False, expires=expires)
    except OperationalError as error:
        log.warning("Redis did not take %s%s (%s); the periodic task will.", task, ids, error)
