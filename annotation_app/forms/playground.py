"""What a researcher asks of chat models in the playground: settings, and the talk so far."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from django import forms
from django.core.validators import ProhibitNullCharactersValidator

from annotation_app.forms.judging import LinesField
from annotation_app.forms.numbers import NumberField, WholeNumberField
from annotation_app.forms.writing import LONGEST_PROMPT
from annotation_app.models import Checkpoint
from annotation_app.sampler import SEED_LIMIT

MOST_TOKENS = 4096
LONGEST_TALK = 100_000  # characters of one side's messages
UNREADABLE = "The talk cannot be read: start anew."


class PlaygroundForm(forms.Form):
    """Who answers, and how; all of it stands in the page's address."""

    left = forms.ChoiceField(
        label="Model",
        error_messages={
            "required": "Choose a chat model.",
            "invalid_choice": "The first chat model is not there any more: choose another one.",
        },
    )
    right = forms.ChoiceField(
        label="Beside it",
        required=False,
        error_messages={
            "invalid_choice": "The second chat model is not there any more: choose another one."
        },
    )
    temperature = NumberField(
        label="Temperature",
        min_value=0,
        max_value=5,
        help_text="0 always takes the likeliest token.",
    )
    top_p = NumberField(label="Top-p", min_value=0.01, max_value=1)
    max_tokens = WholeNumberField(
        label="New tokens",
        min_value=1,
        max_value=MOST_TOKENS,
        help_text="At most so many in an answer.",
    )
    seed = WholeNumberField(
        label="Seed",
        min_value=0,
        max_value=SEED_LIMIT - 1,
        required=False,
        help_text="Left empty, every answer draws its own.",
    )
    is_safety = forms.BooleanField(
        label="Combine the scores as of a safety prompt",
        required=False,
        help_text="Then the safety score decides, whatever it is.",
    )
    system = LinesField(
        label="System message",
        max_length=LONGEST_PROMPT,
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        error_messages={
            "max_length": "The system message has %(show_value)d characters, allowed are at "
            "most %(limit_value)d."
        },
    )

    def __init__(
        self,
        *args: Any,
        chat_models: Sequence[Checkpoint],
        released: Iterable[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.chat_models = {str(model.pk): model for model in chat_models}
        shown = set(released)
        known = [(name, _label(m, m.pk in shown)) for name, m in self.chat_models.items()]
        fields: Any = self.fields
        fields["left"].choices = known
        fields["right"].choices = [("", "nobody: one model alone"), *known]

    def clean_left(self) -> Checkpoint:
        return self.chat_models[self.cleaned_data["left"]]

    def clean_right(self) -> Checkpoint | None:
        return self.chat_models.get(self.cleaned_data["right"])


def _label(model: Checkpoint, is_released: bool) -> str:
    return f"{model.name}, {model.line}" + (", released" if is_released else "")


class MessagesField(forms.Field):
    """A talk as JSON: messages of user and assistant in turn, the user's first and last."""

    def clean(self, value: Any) -> list[dict[str, str]]:
        if value in self.empty_values and not self.required:
            return []
        try:
            given = json.loads(value)
            messages = [{"role": m["role"], "content": m["content"]} for m in given]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise forms.ValidationError(UNREADABLE) from None
        _refuse_disorder(messages)
        texts = [message["content"] for message in messages]
        if not texts[-1].strip():
            raise forms.ValidationError("Write a message first.")
        if len(texts[-1]) > LONGEST_PROMPT:
            raise forms.ValidationError(
                f"The message has {len(texts[-1])} characters, allowed are at most "
                f"{LONGEST_PROMPT}."
            )
        if sum(map(len, texts)) > LONGEST_TALK:
            raise forms.ValidationError(
                f"The talk has {sum(map(len, texts))} characters, allowed are at most "
                f"{LONGEST_TALK}: start anew."
            )
        return messages


def _refuse_disorder(messages: Sequence[dict[str, Any]]) -> None:
    """Raises ValidationError for a talk that no page of ours sends."""
    refuse_null = ProhibitNullCharactersValidator()
    for number, message in enumerate(messages):
        if message["role"] != ("user", "assistant")[number % 2]:
            raise forms.ValidationError(UNREADABLE)
        if not isinstance(message["content"], str):
            raise forms.ValidationError(UNREADABLE)
        refuse_null(message["content"])
        try:
            message["content"].encode()  # JSON can also hold halves of surrogate pairs
        except UnicodeEncodeError:
            raise forms.ValidationError(UNREADABLE) from None
    if len(messages) % 2 == 0:
        raise forms.ValidationError(UNREADABLE)


class TalkForm(PlaygroundForm):
    """A message with the settings, and what each of the models has been told before."""

    left_messages = MessagesField()
    right_messages = MessagesField(required=False)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("right") and cleaned.get("right_messages") == []:
            self.add_error("right_messages", UNREADABLE)
        return cleaned
