"""A prompt that an annotator writes: two fresh responses, and the lease to judge them."""

from __future__ import annotations

from django.db import transaction

from annotation_app import sampler
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Criterion,
    Person,
    Prompt,
    Response,
    Variant,
)
from annotation_app.models.refusals import BatchClosed
from reward.preferences import Message


def pose_written_prompt(
    annotator: Person, batch: Batch, text: str, risk_category: str = ""
) -> Annotation:
    """Sample two answers to a written prompt and reserve their comparison for its author.

    Nothing is stored unless both answers came. Raises BatchClosed, NothingReleased or
    SamplerUnavailable, each with a sentence for the annotator.
    """
    if not _collects(batch):
        raise BatchClosed(f"{batch} takes no new prompts now. Nothing was stored.")
    variants = Variant.pair()
    message = Message("user", text)
    answers = sampler.answer_pair([message._asdict()], variants)
    with transaction.atomic():
        if not _collects(batch):
            raise BatchClosed(f"{batch} closed while the models answered. Nothing was stored.")
        prompt = Prompt.start(
            [message],
            annotator=annotator,
            is_safety=batch.criterion == Criterion.SAFETY,
            risk_category=risk_category,
        )
        responses = [
            Response.objects.create(
                prompt=prompt,
                text=answer.text,
                variant=variant,
                checkpoint=variant.release.checkpoint,
                temperature=variant.temperature,
                top_p=variant.top_p,
                seed=answer.seed,
                finish_reason=answer.finish_reason,
            )
            for variant, answer in zip(variants, answers, strict=True)
        ]
        comparison = Comparison.pose(batch, prompt, *responses)
        return Annotation.objects.lease(comparison, annotator)


def _collects(batch: Batch) -> bool:
    return Batch.objects.open().filter(pk=batch.pk, takes_written_prompts=True).exists()
