"""Bring up the demo world: its starter chat models, its prompts and a first batch of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from annotation_app import exchange, snapshots
from annotation_app.lifecycle import releases
from annotation_app.models import Batch, Checkpoint, Criterion, PromptSet, Release, Run
from annotation_app.supervise import supervise
from demo import world
from reward.preferences import Message, RiskCategory, dialogue_root
from rlhf_loop.prompts import Prompt, PromptSplit

STARTERS = ("starter-a", "starter-b")
LINE = "demo-llama"


class Command(BaseCommand):
    help = "Set up the demo's chat models, prompts and first batches; does nothing a second time."

    def handle(self, *args: Any, **options: Any) -> None:
        prompt_set = self._prompt_set()
        self._release_starters()
        for criterion in Criterion.values:
            if not Batch.objects.filter(criterion=criterion, week__isnull=False).exists():
                self._first_batch(criterion, prompt_set)

    def _prompt_set(self) -> PromptSet:
        name = "Help desk"
        existing = PromptSet.objects.filter(name=name).first()
        if existing is not None:
            return existing
        with transaction.atomic():
            return snapshots.write_prompt_set(
                name, demo_prompts(exchange.installed_settings("prompt_set"))
            )

    @transaction.atomic
    def _release_starters(self) -> None:
        folder = Path(world.__file__).parent / "checkpoints"
        for name in STARTERS:
            if not Checkpoint.objects.filter(name=name, kind=Checkpoint.Kind.CHAT).exists():
                checkpoint = exchange.adopt_checkpoint(
                    folder / name, name=name, line=LINE, kind=Checkpoint.Kind.CHAT
                )
                Release.objects.create(checkpoint=checkpoint)

    def _first_batch(self, criterion: str, prompt_set: PromptSet) -> None:
        """Sample and open week 1, here and now, so that a newcomer finds work waiting."""
        self.stdout.write(f"Sampling the first {criterion} batch …")
        with transaction.atomic():
            batch = Batch.draft_next(criterion, is_filled=False)
            run = releases.queue_filling(batch, prompt_set)
        if run.claim():
            supervise(run)
        run.refresh_from_db()
        if run.state != Run.State.SUCCEEDED:
            raise CommandError(f"{run} did not succeed: {run.error}")
        batch.refresh_from_db()
        batch.open()


def demo_prompts(most: Mapping[str, int]) -> list[Prompt]:
    """The demo world's prompts as the loop reads them, evenly thinned to ``most`` of a split."""
    found = []
    for split in PromptSplit:
        prompts = world.prompts(split.value)
        wanted = min(most.get(split.value, len(prompts)), len(prompts))
        for number in range(wanted):
            found.append(_prompt(prompts[number * len(prompts) // wanted], split))
    return found


def _prompt(prompt: world.DemoPrompt, split: PromptSplit) -> Prompt:
    message = Message("user", prompt.text)
    return Prompt(
        id=prompt.id,
        root=dialogue_root([message]),
        messages=(message,),
        is_safety=prompt.is_safety,
        risk_category=RiskCategory(prompt.risk_category) if prompt.risk_category else None,
        split=split,
        is_borderline=prompt.kind == "borderline",
    )
