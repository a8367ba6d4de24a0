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
    Resampled,
    Response,
    Variant,
)
from annotation_app.models.refusals import BatchClosed
from reward.preferences import Message


def pose_written_prompt(
    annotator: Person, batch: Batch, text: str, risk_category: str = "", attack_vector: str = ""
) -> Annotation:
    """Sample two answers to a written prompt and reserve their comparison for its author.

    Without two answers that can be judged, only those that could not are kept. Raises
    BatchClosed, NothingReleased or SamplerUnavailable, each with a sentence for the annotator.
    """
    if not _collects(batch):
        raise BatchClosed(f"{batch} takes no new prompts now. Nothing was stored.")
    variants = Variant.pair()
    message = Message("user", text)
    asked = [message._asdict()]

    def keep_dropped(variant: Variant, answer: sampler.Answer, reason: str) -> None:
        Resampled.objects.create(
            variant=variant, annotator=annotator, messages=asked, reason=reason,
            text=answer.text, seed=answer.seed, finish_reason=answer.finish_reason,
        )  # fmt: skip

    answers = sampler.answer_pair(asked, variants, keep_dropped)
    with transaction.atomic():
        if not _collects(batch):
            raise BatchClosed(f"{batch} closed while the models answered. Nothing was stored.")
        prompt = Prompt.start(
            [message],
            annotator=annotator,
            is_safety=batch.criterion == Criterion.SAFETY,
            risk_category=risk_category,
            attack_vector=attack_vector,
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
