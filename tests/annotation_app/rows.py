"""Small worlds of rows for the tests."""

from __future__ import annotations

from annotation_app import tasks
from annotation_app.models import Batch, Checkpoint, Comparison, Prompt, Release, Response
from reward.preferences import Message


def open_batch(criterion: str = "helpfulness", overlap: int = 1, comparisons: int = 3) -> Batch:
    batch = Batch.draft_next(criterion)
    Batch.objects.filter(pk=batch.pk).update(overlap=overlap)
    batch.refresh_from_db()
    for number in range(comparisons):
        comparison(batch, f"How long is the warranty of kettle {number}?")
    batch.open()
    return batch


def comparison(
    batch: Batch, text: str, a: str = "Two years.", b: str = "I do not know."
) -> Comparison:
    prompt = Prompt.start([Message("user", text)], is_safety=batch.criterion == "safety")
    responses = [Response.objects.create(prompt=prompt, text=answer) for answer in (a, b)]
    return Comparison.pose(batch, prompt, *responses)


def turn_batches() -> None:
    """What beat and the tasks that it sends do about batches."""
    tasks.turn_batches()
    for batch in Batch.objects.filter(state=Batch.State.CLOSING):
        tasks.finish_batch(batch.pk)


def released_chat_model(name: str = "starter") -> Release:
    checkpoint = Checkpoint.objects.create(
        kind=Checkpoint.Kind.CHAT, name=name, line="tiny", storage_key=f"checkpoints/{name}"
    )
    return Release.objects.create(checkpoint=checkpoint)
