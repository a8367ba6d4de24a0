"""``manage.py write_snapshot``: freeze what is collected, for training without the web side."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from annotation_app import snapshots, storage
from annotation_app.models import Criterion
from annotation_app.models.refusals import CannotStart


class Command(BaseCommand):
    help = (
        "Write everything collected so far as pairs files, and print their folder: pairs.jsonl to "
        "train on, holdout.jsonl to measure on, and the undecided ones beside them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("criterion", choices=Criterion.values)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            snapshot = snapshots.write_snapshot(options["criterion"])
        except CannotStart as refusal:
            raise CommandError(str(refusal)) from None
        self.stdout.write(str(storage.path(snapshot.storage_key)))
