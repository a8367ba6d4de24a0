"""What a researcher says to release a chat model, to roll it back, to have people compare."""

from __future__ import annotations

from django import forms

from annotation_app.forms.numbers import WholeNumberField
from annotation_app.models import Criterion

LONGEST_REASON = 2_000


def _reason(missing: str, *, required: bool) -> forms.CharField:
    return forms.CharField(
        label="Why",
        required=required,
        max_length=LONGEST_REASON,
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={
            "required": missing,
            "max_length": "The reason has %(show_value)d characters, allowed are at most "
            "%(limit_value)d.",
        },
    )


class ReleaseForm(forms.Form):
    """Why a round that is held back is released all the same; an evaluated one needs no words."""

    reason = _reason("Say why it is released although something speaks against it.", required=False)

    def __init__(self, *args: object, needs_reason: bool, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.fields["reason"].required = needs_reason


class RollBackForm(forms.Form):
    """Why annotators shall get no answer of a chat model any more."""

    reason = _reason("Say why it is rolled back: others will read it here.", required=True)


class SideBySideForm(forms.Form):
    """How many comparisons of a round's models people shall judge, and how many people each."""

    criterion = forms.ChoiceField(
        choices=Criterion.choices,
        widget=forms.RadioSelect,
        label="Judged by",
        error_messages={
            "required": "Say what people shall judge: helpfulness or safety.",
            "invalid_choice": "“%(value)s” is no criterion, allowed are helpfulness and safety.",
        },
    )
    count = WholeNumberField(min_value=1, max_value=10_000, label="Comparisons")
    overlap = WholeNumberField(min_value=1, max_value=9, label="Annotators for each")
