"""Import prompts that models are to answer: borderline and adversarial ones, say."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from annotation_app import snapshots
from annotation_app.imports.prompt_sets import PROMPT_READERS
from annotation_app.models import PromptSet
from annotation_app.models.refusals import WrongState
from reward.preferences import MalformedLine
from rlhf_loop.prompts import Prompt, PromptSplit

LONGEST_NAME = 120


class Command(BaseCommand):
    help = (
        "Import prompts into a prompt set of a new name. A file is taken whole or not at all. With "
        "--join NAME the new set holds that set's prompts too and is the one that the next round "
        "uses; without it the prompts are stored and no round is trained on them. With --measure "
        "every round's evaluation asks its test prompts too, until --no-measure NAME."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, nargs="?")
        parser.add_argument("--format", choices=PROMPT_READERS)
        parser.add_argument("--name", help="of the new prompt set")
        parser.add_argument(
            "--split", default=PromptSplit.TEST, choices=list(PromptSplit), type=PromptSplit,
            help="of prompts whose file names none; test prompts are what versions are compared on",
        )  # fmt: skip
        parser.add_argument(
            "--measure", action="store_true",
            help="ask its test prompts in the evaluation of every round from now on",
        )  # fmt: skip
        parser.add_argument(
            "--no-measure", metavar="NAME",
            help="import nothing, and ask no prompts of this set in evaluations any more",
        )  # fmt: skip
        parser.add_argument("--join", metavar="NAME", help="a prompt set that is taken in too")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["no_measure"] is not None:
                self._stop_measuring(options)
                return
            with transaction.atomic():
                found = self._store(options)
        except (MalformedLine, WrongState) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(
                f"{error.filename or options['file']} cannot be read: {error.strerror}."
            ) from error
        counts = ", ".join(f"{name} {count}" for name, count in sorted(found.counts.items()))
        self.stdout.write(f"{found.name}: {counts}")

    def _stop_measuring(self, options: dict[str, Any]) -> None:
        asked = ("file", "format", "name", "join", "measure")
        if given := [name for name in asked if options[name]]:
            raise WrongState(f"With --no-measure goes nothing else; given: {', '.join(given)}.")
        found = _named(options["no_measure"])
        if not found.is_for_measuring:
            raise WrongState(f"The prompt set {found.name!r} is not measured with.")
        PromptSet.objects.filter(pk=found.pk).update(is_for_measuring=False)
        self.stdout.write(f"{found.name}: rounds are not measured with it any more.")

    def _store(self, options: dict[str, Any]) -> PromptSet:
        if missing := [it for it in ("file", "format", "name") if options[it] is None]:
            raise WrongState(f"To import, give a file, --format and --name: no {missing[0]} given.")
        name, joined = options["name"], options["join"]
        if not name.strip() or len(name) > LONGEST_NAME:
            raise WrongState(f"A prompt set's name has 1 to {LONGEST_NAME} characters.")
        if PromptSet.objects.filter(name=name).exists():
            raise WrongState(f"There is a prompt set {name!r} already; choose another name.")
        prompts = [] if joined is None else _prompts_of(joined)
        prompts += PROMPT_READERS[options["format"]](options["file"], options["split"])
        _refuse_repeated(prompts)
        is_for_rounds = joined is not None
        if options["measure"] or is_for_rounds:
            _refuse_taken_ids(name, prompts, is_for_rounds)
        return snapshots.write_prompt_set(
            name,
            prompts,
            is_for_rounds=is_for_rounds,
            is_for_measuring=options["measure"],
        )


def _refuse_taken_ids(name: str, prompts: list[Prompt], is_for_rounds: bool) -> None:
    """An evaluation reads all sets and asks one prompt of each id: it refuses an id that two of
    them have for prompts that differ."""
    beside = list(PromptSet.objects.to_measure_on().order_by("pk"))
    if not is_for_rounds:
        beside += PromptSet.objects.filter(is_for_rounds=True).order_by("-created_at")[:1]
    own = {prompt.id: prompt.messages for prompt in prompts}
    for other in beside:
        for prompt in snapshots.prompts_of(other):
            if own.get(prompt.id, prompt.messages) != prompt.messages:
                raise WrongState(
                    f"The id {prompt.id!r} stands in {name!r} and in {other.name!r}, for prompts "
                    "that differ, and rounds are measured on both: give it another id, or stop "
                    "measuring with a set by --no-measure NAME."
                )


def _prompts_of(name: str) -> list[Prompt]:
    return snapshots.prompts_of(_named(name))


def _named(name: str) -> PromptSet:
    prompt_set = PromptSet.objects.filter(name=name).first()
    if prompt_set is None:
        names = ", ".join(PromptSet.objects.order_by("pk").values_list("name", flat=True)[:20])
        raise WrongState(f"There is no prompt set {name!r}; there are: {names or 'none'}.")
    return prompt_set


def _refuse_repeated(prompts: list[Prompt]) -> None:
    if not prompts:
        raise WrongState("The file holds no prompt.")
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise WrongState(f"Two prompts have the id {prompt.id!r}; each may stand there once.")
        seen.add(prompt.id)
