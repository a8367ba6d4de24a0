"""Turn the whole loop with simulated annotators, and say what the hidden gold scorer thinks."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from httpx import HTTPError

from annotation_app import storage
from annotation_app.management.commands.prepare_demo import demo_prompts
from annotation_app.models import Batch, Checkpoint, Criterion, Person, Release, Round, Run
from demo.annotators import CAST, SimulatedAnnotator
from demo.client import FormRefused, Visitor, judge_batch
from demo.gold import MeanScores, mean_scores
from reward.preferences import Criterion as CriterionWord
from reward.preferences import read_json_lines
from rlhf_loop.prompts import PromptSplit, write_prompts

T = TypeVar("T")
WAIT_SECONDS = 3_600
MAX_NEW_TOKENS = 48
WHY_RELEASED = (
    "Simulated: every version is released, whatever the gate says, to see its gold scores."
)


class Command(BaseCommand):
    help = "Run weeks of the loop on the running platform, with simulated annotators at its forms."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--weeks", type=int, default=3)
        parser.add_argument("--url", default=settings.SITE_URL, help="where the platform runs")
        parser.add_argument("--test-prompts", type=int, default=2_000, help="for the gold figures")
        parser.add_argument("--seed", type=int, default=0, help="of the simulated annotators")

    def handle(self, *args: Any, **options: Any) -> None:
        started = time.monotonic()
        self.options = options
        try:
            self.researcher = self._visitor("sim-researcher", Person.Role.RESEARCHER)
        except HTTPError as error:
            raise CommandError(
                f"Nothing answers at {options['url']} ({error}): start it with make run."
            ) from None
        self.cast = [(a, self._visitor(f"sim-{a.name}", Person.Role.ANNOTATOR)) for a in CAST]
        newest = Release.objects.current().select_related("checkpoint")[0].checkpoint
        self.stdout.write("version             helpfulness  safety  (gold, mean of test prompts)")
        self._print_gold(newest)
        for week in range(options["weeks"]):
            try:
                self._print_gold(self._week(week))
            except FormRefused as error:
                raise CommandError(str(error)) from None
        self.stdout.write(f"{time.monotonic() - started:.0f} s in all")

    def _visitor(self, name: str, role: str) -> Visitor:
        """Sign in at the form, with a password that nobody else knows."""
        password = secrets.token_urlsafe(24)
        person, _ = Person.objects.get_or_create(username=name, defaults={"role": role})
        person.set_password(password)
        person.save(update_fields=["password"])
        return Visitor(self.options["url"], name, password)

    def _week(self, week: int) -> Checkpoint:
        """Judge both batches, close them, promote, run a round, release."""
        batches = [
            self._wait(f"an open {criterion} batch", partial(_open_batch, criterion))
            for criterion in Criterion.values
        ]
        for batch in batches:
            judged = self._judge(batch, week)
            self.stdout.write(f"  {batch}: {judged} annotations")
        runs = [self._train(batch) for batch in batches]
        for run in runs:
            self.researcher.post(f"/rewards/{run.checkpoint.pk}/promote", {})
        self.researcher.post("/rounds/start", {})
        started = Round.objects.latest("pk")
        finished = self._wait(f"{started}", lambda: _evaluated(started))
        self.researcher.post(f"/rounds/{finished.pk}/release", {"reason": WHY_RELEASED})
        assert finished.result is not None, finished.pk
        return finished.result

    def _judge(self, batch: Batch, week: int) -> int:
        criterion = CriterionWord(batch.criterion)

        def work(at: tuple[SimulatedAnnotator, Visitor]) -> int:
            annotator, visitor = at
            rng = random.Random(f"{self.options['seed']}/{week}/{criterion}/{annotator.name}")
            return judge_batch(visitor, criterion, annotator, rng)

        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(work, self.cast))

    def _train(self, batch: Batch) -> Run:
        """Close the batch and wait for the reward model that it asks for."""
        last = Run.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        self.researcher.post(f"/batches/{batch.pk}/close", {})
        mine = Run.objects.filter(
            kind=Run.Kind.REWARD_TRAINING, criterion=batch.criterion, pk__gt=last
        )
        run = self._wait(f"training after {batch}", lambda: _ended(mine.first()))
        accuracy = run.checkpoint.metrics
        self.stdout.write(
            f"  {run}: accuracy {accuracy['accuracy']:.3f} on {accuracy['count']} held-out pairs"
        )
        return run

    def _wait(self, what: str, ask: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            if (found := ask()) is not None:
                return found
            time.sleep(0.5)
        raise CommandError(f"Waited {WAIT_SECONDS} s for {what}.")

    def _print_gold(self, checkpoint: Checkpoint) -> None:
        gold = gold_scores(checkpoint, self.options["test_prompts"])
        self.stdout.write(f"{checkpoint.name:18}  {gold.helpfulness:11.3f}  {gold.safety:6.3f}")


def _open_batch(criterion: str) -> Batch | None:
    return Batch.objects.open().preference().filter(criterion=criterion).first()


def _ended(run: Run | None) -> Run | None:
    if run is None or run.is_active:
        return None
    if run.state != Run.State.SUCCEEDED:
        raise CommandError(f"{run} {run.state}: {run.error}")
    return run


def _evaluated(started: Round) -> Round | None:
    started.refresh_from_db()
    if started.is_active:
        return None
    if started.state not in (Round.State.EVALUATED, Round.State.HELD):
        raise CommandError(f"{started} {started.state}: {started.error}")
    return started


def gold_scores(checkpoint: Checkpoint, most: int) -> MeanScores:
    """Sample one answer to each test prompt and have the gold scorer read them."""
    prompts = demo_prompts({"train": 0, "validation": 0, "test": most})
    folder = storage.path(f"gold/{checkpoint.pk}-{most}")
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / "prompts.jsonl", prompts)
    command = [
        sys.executable, "-m", "rlhf_loop.sampling",
        "--prompts", str(folder / "prompts.jsonl"), "--split", PromptSplit.TEST,
        "--model", str(storage.path(checkpoint.storage_key)),
        "--max-new-tokens", str(MAX_NEW_TOKENS), "--out", str(folder / "run"),
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=settings.BASE_DIR, capture_output=True)
    answers = _answers(folder / "run" / "responses.jsonl")
    asked = [prompt.messages[-1].content for prompt in prompts]
    return mean_scores(asked, [answers[prompt.id] for prompt in prompts])


def _answers(file: Path) -> dict[str, str]:
    return {record["prompt_id"]: record["text"] for _, record in read_json_lines(file)}
