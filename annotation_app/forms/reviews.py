"""Which answers a reviewer wants to see, and what they decide."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms

from annotation_app.models import (
    Batch,
    Criterion,
    Person,
    Review,
)
from annotation_app.models.annotation import AnnotationQuerySet

WHY = "Say why: the annotator will read it."


class ReviewFilterForm(forms.Form):
    """Which answers a reviewer wants to see. Its fields are all that an address may ask for."""

    criterion = forms.ChoiceField(
        choices=[("", "both"), *Criterion.choices],
        required=False,
        error_messages={"invalid_choice": "There is no criterion of that name."},
    )
    annotator = forms.ModelChoiceField(
        Person.objects.all(),
        to_field_name="username",
        required=False,
        widget=forms.TextInput(attrs={"list": "annotators", "autocomplete": "off"}),
        error_messages={"invalid_choice": "There is nobody of that name."},
    )
    batch = forms.ModelChoiceField(
        Batch.objects.exclude(state=Batch.State.DRAFT).filter(week__isnull=False).order_by("-pk"),
        required=False,
        empty_label="all",
        error_messages={"invalid_choice": "There is no such batch."},
    )
    show = forms.ChoiceField(  # veiled texts: this one, or all that follow
        choices=[("1", ""), ("all", "")], required=False, widget=forms.HiddenInput
    )

    def narrow(self, annotations: AnnotationQuerySet) -> AnnotationQuerySet:
        """Those of the annotations that are asked for."""
        columns = {
            "criterion": "comparison__criterion",
            "annotator": "annotator",
            "batch": "batch",
        }
        asked = {columns[name]: self.cleaned_data[name] for name in columns}
        return annotations.filter(**{column: value for column, value in asked.items() if value})

    def is_bounded(self) -> bool:
        """Whether it asks for one batch or one annotator."""
        return bool(self.cleaned_data["batch"] or self.cleaned_data["annotator"])

    def query(self) -> str:
        """What was asked for, as the end of an address that leads to another answer."""
        asked = {name: self.data.get(name, "") for name in self.fields}
        once = {"show": "1"}
        return urlencode({k: v for k, v in asked.items() if v and once.get(k) != v})


class ReviewForm(forms.Form):
    """A decision with what the annotator will read."""

    decision = forms.ChoiceField(
        choices=Review.Decision.choices,
        error_messages={"required": "Approve, edit, send back or reject."},
    )
    feedback = forms.CharField(
        max_length=1_000, required=False, widget=forms.Textarea(attrs={"rows": 2})
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        needs_why = (Review.Decision.REJECTED, Review.Decision.SENT_BACK)
        if cleaned.get("decision") in needs_why and cleaned.get("feedback") == "":
            self.add_error("feedback", WHY)
        return cleaned


class FeedbackSeenForm(forms.Form):
    """The first and the last of the reviews that the page showed as new."""

    oldest = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    newest = forms.IntegerField(min_value=1, max_value=2**63 - 1)
