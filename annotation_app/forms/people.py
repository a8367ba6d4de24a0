"""People, their settings, and those of the organisation."""

from __future__ import annotations

from typing import Any

from django import forms

from annotation_app.models import (
    Organisation,
    Person,
    Skill,
)


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
            "reference_rate", "re_serve_rate", "re_serve_after_days", "pauses_by_itself",
            "fewest_probes", "least_skill", "least_self_agreement", "most_on_one_side",
        )  # fmt: skip
        widgets = {"safety_warning": forms.Textarea(attrs={"rows": 4})}

    def safety(self) -> list[forms.BoundField]:
        """What protects the people who do safety work."""
        return [field for field in self if field.name.startswith("safety")]

    def checks(self) -> list[forms.BoundField]:
        """How the work is checked."""
        return [field for field in self if not field.name.startswith("safety")]


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


class ExclusionForm(forms.Form):
    """Whose work of which days is excluded, and why."""

    since = forms.DateField(
        label="From (UTC)", widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    )
    until = forms.DateField(
        label="To, this day too", widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    )
    reason = forms.CharField(max_length=300, error_messages={"required": "Say why."})
    sure = forms.BooleanField(required=False)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and since > until:
            raise forms.ValidationError(f"{since} is after {until}: choose a first and a last day.")
        return cleaned


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new person, who signs in by a one-time link and chooses a password."""

    class Meta:
        model = Person
        fields = ("username", "role")
