"""What people write: messages, demonstrations, better answers."""

from __future__ import annotations

from typing import Any

from django import forms

from annotation_app.forms.judging import LinesField
from annotation_app.models import (
    AttackVector,
    Criterion,
    RiskCategory,
)

LONGEST_PROMPT = 20_000
LONGEST_ANSWER = 20_000
UNCHANGED = "Nothing is changed yet: this is the text as it was."


class DemonstrationForm(forms.Form):
    """A prompt of one's own and the answer that a model should give to it."""

    prompt = LinesField(
        label="Prompt",
        max_length=LONGEST_PROMPT,
        widget=forms.Textarea(attrs={"rows": 5}),
        error_messages={"required": "Write the prompt first."},
    )
    text = LinesField(
        label="The ideal answer",
        max_length=LONGEST_ANSWER,
        widget=forms.Textarea(attrs={"rows": 14}),
        error_messages={"required": "Write the answer too."},
    )
    risk_category = forms.ChoiceField(
        choices=[("", "not a risk"), *RiskCategory.choices], required=False
    )
    attack_vector = forms.ChoiceField(choices=[("", "none"), *AttackVector.choices], required=False)

    def __init__(self, criterion: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if criterion != Criterion.SAFETY:
            del self.fields["risk_category"], self.fields["attack_vector"]


class BetterAnswerForm(forms.Form):
    """A text in place of another one, and really another one."""

    text = LinesField(
        label="The better answer",
        max_length=LONGEST_ANSWER,
        widget=forms.Textarea(attrs={"rows": 14}),
        error_messages={"required": "An answer needs a text."},
    )

    def __init__(self, original: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial = {"text": original}
        self.original = original.replace("\r\n", "\n").strip()

    def clean_text(self) -> str:
        text = str(self.cleaned_data["text"])
        if text == self.original:
            raise forms.ValidationError(UNCHANGED)
        return text


class RejectionForm(forms.Form):
    reason = LinesField(
        label="Reason",
        max_length=500,
        widget=forms.Textarea(attrs={"rows": 2}),
        error_messages={"required": "Say why: the author will read it."},
    )


class MessageForm(forms.Form):
    """What an annotator says to the models."""

    text = forms.CharField(
        label="Your message",
        max_length=LONGEST_PROMPT,
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": "Write a message first."},
    )


class FirstMessageForm(MessageForm):
    """The first one of a dialogue: on safety, with the risk that it tries."""

    risk_category = forms.ChoiceField(
        choices=[("", "not a risk"), *RiskCategory.choices], required=False
    )
    attack_vector = forms.ChoiceField(choices=[("", "none"), *AttackVector.choices], required=False)
