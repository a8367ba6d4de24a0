"""Which of an evaluation's samples to read."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms

from annotation_app.samples import ORDERS, SCORES
from rlhf_loop.prompts import PromptKind

MOST_DRAWS = 1_000_000
KINDS = {
    PromptKind.HELPFULNESS: "helpfulness",
    PromptKind.BORDERLINE: "borderline",
    PromptKind.ADVERSARIAL: "safety",
}


class SamplesForm(forms.Form):
    """Of which prompts, in which order, by which score. What is not said is the first of each."""

    kind = forms.ChoiceField(
        choices=[("", "all"), *((str(kind), words) for kind, words in KINDS.items())],
        required=False,
        label="Prompts",
        error_messages={"invalid_choice": "There are no such prompts."},
    )
    order = forms.ChoiceField(
        choices=list(ORDERS.items()),
        required=False,
        label="Order",
        error_messages={"invalid_choice": "There is no such order."},
    )
    score = forms.ChoiceField(
        choices=[(score, f"{score} score") for score in SCORES],
        required=False,
        label="Gain of",
        error_messages={"invalid_choice": "There is no such score."},
    )
    draw = forms.IntegerField(
        min_value=0, max_value=MOST_DRAWS, required=False, widget=forms.HiddenInput
    )
    show = forms.ChoiceField(choices=[("1", "")], required=False, widget=forms.HiddenInput)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        usual = {"order": next(iter(ORDERS)), "score": SCORES[0], "draw": 0}
        return {**cleaned, **{name: cleaned.get(name) or value for name, value in usual.items()}}

    def query(self, **changed: object) -> str:
        """What was asked for, as the end of an address; with what is changed."""
        asked = {name: self.data.get(name, "") for name in self.fields} | changed
        return urlencode({name: value for name, value in asked.items() if value != ""})
