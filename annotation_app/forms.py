"""What people may send."""

from __future__ import annotations

from typing import Any, NamedTuple

from django import forms

from annotation_app.models import (
    AttackVector,
    Batch,
    Criterion,
    Organisation,
    Person,
    RiskCategory,
    Side,
    Skill,
    Strength,
)
from annotation_app.models.leases import Question

STRENGTHS = list(Strength)
PREFERENCES = [f"left_{s}" for s in STRENGTHS] + [f"right_{s}" for s in reversed(STRENGTHS)]
SAFE = {  # which of the two are safe: (left, right)
    "left": (True, False),
    "both": (True, True),
    "neither": (False, False),
    "right": (False, True),
}
CHOOSE = "Choose which response is better, and how much."
WHICH_ARE_SAFE = "Say which of the two responses are safe."
CONTRADICTION = (
    "The response you prefer is marked unsafe and the other one safe. On safety the safe response "
    "is the better one: change the choice or the marks."
)
LONGEST_PROMPT = 20_000
LONGEST = 86_400  # seconds


class Preference(NamedTuple):
    """One of the eight answers, as the page offers it."""

    value: str
    side: str
    label: str


def preferences() -> list[Preference]:
    """The eight answers from "Left significantly better" to "Right significantly better"."""
    found = []
    for value in PREFERENCES:
        side, _, strength = value.partition("_")
        found.append(Preference(value, side, str(Strength(strength).label)))
    return found


class AnnotationForm(forms.Form):
    """One judgement in the annotator's own terms, left and right."""

    preference = forms.ChoiceField(
        choices=[(value, value) for value in PREFERENCES],
        error_messages={"required": CHOOSE},
    )
    safe = forms.ChoiceField(choices=[(value, value) for value in SAFE], required=False)
    active_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    idle_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    left_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    right_seconds = forms.FloatField(required=False, min_value=0, max_value=LONGEST)
    guideline_version = forms.IntegerField(required=False, min_value=1, max_value=32_767)

    def __init__(self, question: Question, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.question = question

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.question.criterion != Criterion.SAFETY:
            cleaned["safe"] = ""
            return cleaned
        if not cleaned.get("safe"):
            raise forms.ValidationError(WHICH_ARE_SAFE)
        side, _, _ = str(cleaned.get("preference", "")).partition("_")
        if side and cleaned["safe"] in ("left", "right") and cleaned["safe"] != side:
            raise forms.ValidationError(CONTRADICTION)
        return cleaned

    def answer(self) -> dict[str, Any]:
        """The judgement in the row's terms: the one place where left and right become a and b."""
        side, _, strength = self.cleaned_data["preference"].partition("_")
        shown_left = Side(self.question.shown_left)
        left, right = SAFE.get(self.cleaned_data["safe"], (None, None))
        looked = self.cleaned_data["left_seconds"], self.cleaned_data["right_seconds"]
        a_is_left = shown_left is Side.A
        return {
            "choice": (shown_left if side == "left" else shown_left.other).value,
            "strength": strength,
            "a_safe": left if a_is_left else right,
            "b_safe": right if a_is_left else left,
            "active_seconds": self.cleaned_data["active_seconds"],
            "idle_seconds": self.cleaned_data["idle_seconds"],
            "guideline_version": self.cleaned_data["guideline_version"],
            "a_seconds": looked[0] if a_is_left else looked[1],
            "b_seconds": looked[1] if a_is_left else looked[0],
        }


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=500, required=False)


class PreferencesForm(forms.ModelForm):  # type: ignore[type-arg]
    """What a person may set for themselves; declining safety work where that is allowed."""

    class Meta:
        model = Person
        fields = ("key_layout", "does_safety")
        widgets = {"key_layout": forms.RadioSelect}

    def __init__(self, organisation: Organisation, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not organisation.safety_may_be_declined:
            del self.fields["does_safety"]


class OrganisationForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Organisation
        fields = (
            "safety_warning", "safety_is_veiled", "safety_may_be_declined", "safety_daily_cap",
        )  # fmt: skip
        widgets = {"safety_warning": forms.Textarea(attrs={"rows": 4})}


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


class PersonForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Person
        fields = ("role", "skills")
        widgets = {"skills": forms.CheckboxSelectMultiple}


class SkillForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Skill
        fields = ("name",)
        labels = {"name": "New skill"}


class PauseForm(forms.Form):
    reason = forms.CharField(
        max_length=300, error_messages={"required": "Say why: the annotator will read it."}
    )


class CriterionForm(forms.Form):
    criterion = forms.ChoiceField(choices=Criterion.choices)


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new person, who signs in by a one-time link and chooses a password."""

    class Meta:
        model = Person
        fields = ("username", "role")


# --- live dialogues ------------------------------------------------------------------------------


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


class WeightForm(forms.Form):
    """How often a released chat model answers, beside the others."""

    weight = forms.FloatField(
        min_value=0,
        max_value=1_000,
        error_messages={"required": "Give a weight: a number from 0 to 1000."},
    )
