"""What researchers set: batches, guidelines, references, weights."""

from __future__ import annotations

from django import forms

from annotation_app.models import (
    Batch,
    Comparison,
)


class GuidelineForm(forms.Form):
    """A new version, and which one its author had before them."""

    text = forms.CharField(
        max_length=50_000,
        widget=forms.Textarea(attrs={"rows": 16}),
        error_messages={"required": "Guidelines need a text."},
    )
    after = forms.IntegerField(min_value=1, widget=forms.HiddenInput)


class BatchForm(forms.ModelForm):  # type: ignore[type-arg]
    """Who works on a batch, and how much of it each."""

    class Meta:
        model = Batch
        fields = ("most_per_annotator", "required_skills")
        labels = {"most_per_annotator": "Comparisons for one person at most"}
        widgets = {"required_skills": forms.CheckboxSelectMultiple}


class ReferenceForm(forms.Form):
    """The known answer to a comparison."""

    choice = forms.ChoiceField(
        choices=[("a", "Response a"), ("b", "Response b")],
        widget=forms.RadioSelect,
        error_messages={"required": "Say which response is better."},
    )
    reason = forms.CharField(
        max_length=500,
        label="Why it is clearly better",
        error_messages={"required": "Say why it is better: others will have to judge by it."},
    )


class PriorityForm(forms.ModelForm):  # type: ignore[type-arg]
    priority = forms.IntegerField(min_value=-100, max_value=100, label="Higher is given first")

    class Meta:
        model = Comparison
        fields = ("priority",)


class WeightForm(forms.Form):
    """How often a released chat model answers, beside the others."""

    weight = forms.FloatField(
        min_value=0,
        max_value=1_000,
        error_messages={"required": "Give a weight: a number from 0 to 1000."},
    )
