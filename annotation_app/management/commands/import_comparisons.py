"""Import human comparisons that were collected elsewhere."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from tqdm import tqdm

from annotation_app.imports import READERS
from annotation_app.imports.importing import import_records
from annotation_app.models import Criterion
from annotation_app.models.refusals import WrongState
from reward.preferences import MalformedLine


class Command(BaseCommand):
    help = (
        "Import human comparisons from a file, plain or gzip, into a closed batch. A file is taken "
        "whole or not at all, and importing it again adds nothing. On SQLite the site cannot "
        "write while a file comes in: import large files when nobody annotates."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--format", required=True, choices=READERS)
        parser.add_argument("--criterion", required=True, choices=Criterion.values)
        parser.add_argument("--batch", required=True, metavar="NAME", help="made when it is new")

    def handle(self, *args: Any, **options: Any) -> None:
        records = READERS[options["format"]](options["file"])
        width = get_terminal_size().columns  # also where a terminal does not tell its size
        try:
            with tqdm(records, unit=" comparisons", ncols=width, disable=None) as progress:
                summary = import_records(
                    progress,
                    source_format=options["format"],
                    criterion=options["criterion"],
                    batch_name=options["batch"],
                )
        except (MalformedLine, WrongState) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{options['file']} cannot be read: {error.strerror}.") from error
        self.stdout.write(str(summary))
