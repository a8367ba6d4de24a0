"""What people may send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlencode

from django import forms

from annotation_app import qualification_document
from annotation_app.models import (
    Annotation,
    AttackVector,
    AttemptAnswer,
    Batch,
    Comparison,
    Criterion,
    Organisation,
    Person,
    Reason,
    Review,
    RiskCategory,
    Side,
    Skill,
    Strength,
)
from annotation_app.models.annotation import AnnotationQuerySet
from annotation_app.models.remark import LONGEST_COMMENT, RATINGS

STRENGTHS = list(Strength)
PREFERENCES = [f"left_{s}" for s in STRENGTHS] + [f"right_{s}" for s in reversed(STRENGTHS)]
SAFE = {  # which of the two are safe: (left, right)
    "left": (True, False),
    "both": (True, True),
    "neither": (False, False),
    "right": (False, True),
}
SAFE_LABELS = {"left": "only left", "both": "both", "neither": "neither", "right": "only right"}
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


class LinesField(forms.CharField):
    """A text of several lines, each ended by \\n alone, whatever the browser sends.

    The page does not cut what is too long: it comes back whole, with a sentence.
    """

    widget = forms.Textarea

    def to_python(self, value: Any) -> Any:
        return str(super().to_python(value)).replace("\r\n", "\n").strip()

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        attrs = super().widget_attrs(widget)
        attrs.pop("maxlength", None)
        return attrs


def rating_field() -> forms.TypedChoiceField:
    return forms.TypedChoiceField(
        choices=[(str(rating), str(rating)) for rating in RATINGS],
        required=False, coerce=int, empty_value=None,
        error_messages={"invalid_choice": "A rating is a whole number from 1 to 7."},
    )  # fmt: skip


def reasons_field() -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(
        choices=Reason.choices,
        required=False,
        error_messages={"invalid_choice": "“%(value)s” is not one of the reasons."},
    )


class Asked(Protocol):
    """What the form must know of a question: safety marks or not, and which side stands left."""

    @property
    def criterion(self) -> str: ...
    @property
    def shown_left(self) -> str: ...


class AnnotationForm(forms.Form):
    """One judgement in the annotator's own terms, left and right, and what they note to it."""

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
    left_rating = rating_field()
    right_rating = rating_field()
    left_tags = reasons_field()
    right_tags = reasons_field()
    comment = LinesField(max_length=LONGEST_COMMENT, required=False)

    def __init__(self, question: Asked, *args: Any, **kwargs: Any) -> None:
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
        """The judgement in the row's terms."""
        side, _, strength = self.cleaned_data["preference"].partition("_")
        a_side, _ = self._a_and_b("left", "right")
        a_safe, b_safe = self._a_and_b(*SAFE.get(self.cleaned_data["safe"], (None, None)))
        a_seconds, b_seconds = self._a_and_b(
            self.cleaned_data["left_seconds"], self.cleaned_data["right_seconds"]
        )
        return {
            "choice": (Side.A if side == a_side else Side.B).value,
            "strength": strength,
            "a_safe": a_safe,
            "b_safe": b_safe,
            "active_seconds": self.cleaned_data["active_seconds"],
            "idle_seconds": self.cleaned_data["idle_seconds"],
            "guideline_version": self.cleaned_data["guideline_version"],
            "a_seconds": a_seconds,
            "b_seconds": b_seconds,
        }

    def remark(self) -> dict[str, Any]:
        """What was noted, in the row's terms; empty where nothing was."""
        found = self.cleaned_data
        a_rating, b_rating = self._a_and_b(found["left_rating"], found["right_rating"])
        a_tags, b_tags = self._a_and_b(found["left_tags"], found["right_tags"])
        noted = {
            "a_rating": a_rating,
            "b_rating": b_rating,
            "a_tags": [reason for reason in Reason.values if reason in a_tags],
            "b_tags": [reason for reason in Reason.values if reason in b_tags],
            "comment": found["comment"],
        }
        return noted if any(noted.values()) else {}

    def _a_and_b(self, left: Any, right: Any) -> tuple[Any, Any]:
        """The one place where left and right become a and b."""
        return (left, right) if self.question.shown_left == Side.A else (right, left)


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


class CriterionForm(forms.Form):
    criterion = forms.ChoiceField(choices=Criterion.choices)


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new person, who signs in by a one-time link and chooses a password."""

    class Meta:
        model = Person
        fields = ("username", "role")


# --- reviews -------------------------------------------------------------------------------------

WHY = "Say why: the annotator will read it."


def as_given(annotation: Annotation) -> dict[str, str]:
    """A stored judgement as the annotator gave it: left and right, as ``AnnotationForm`` has them.

    The way back from ``AnnotationForm.answer``. Empty where there is nothing of the kind.
    """
    side = "left" if annotation.choice == annotation.shown_left else "right"
    preference = f"{side}_{annotation.strength}"
    marks = (annotation.a_safe, annotation.b_safe)
    if annotation.shown_left != Side.A:
        marks = marks[::-1]
    return {
        "preference": preference if preference in PREFERENCES else "",
        "safe": next((name for name, safe in SAFE.items() if safe == marks), ""),
    }


def in_words(annotation: Annotation) -> str:
    """A stored judgement as a phrase: "Left slightly better; safe: both"."""
    given = as_given(annotation)
    offered = {p.value: f"{p.side.capitalize()} {p.label.lower()}" for p in preferences()}
    said = offered.get(given["preference"], "No side")
    return f"{said}; safe: {SAFE_LABELS[given['safe']]}" if given["safe"] else said


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


# --- answers that people write -------------------------------------------------------------------

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


# --- qualifications --------------------------------------------------------------------------

LARGEST_DOCUMENT = 2_000_000  # characters or bytes
MOST_FAULTS = 50  # shown at once
GRADES = {
    5: "could be published as it is",
    4: "good, with a small defect",
    3: "usable after editing",
    2: "more wrong than right",
    1: "unusable",
}
COMPARED = ("choice", "strength", "a_safe", "b_safe")  # of AnnotationForm.answer()


class OptionForm(forms.Form):
    """One of a question's options, by its number from 0."""

    option = forms.TypedChoiceField(
        coerce=int, error_messages={"required": "Choose one of the answers."}
    )

    def __init__(self, options: Sequence[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["option"].choices = list(enumerate(options))  # type: ignore[attr-defined]

    def answer(self) -> dict[str, Any]:
        return {"option": self.cleaned_data["option"]}


class ComparedForm(AnnotationForm):
    """The judging page's form for a question of a gate, filled with what is stored."""

    def __init__(self, stored: AttemptAnswer, *args: Any, **kwargs: Any) -> None:
        super().__init__(stored, *args, **kwargs)
        is_left = stored.choice == stored.shown_left
        safe = (stored.a_safe, stored.b_safe)
        shown = safe if stored.shown_left == Side.A else safe[::-1]
        self.initial["safe"] = next((name for name, marks in SAFE.items() if marks == shown), "")
        if stored.choice:
            self.initial["preference"] = f"{'left' if is_left else 'right'}_{stored.strength}"

    def answer(self) -> dict[str, Any]:
        judged = super().answer()
        return {name: judged[name] for name in COMPARED}


class WrittenForm(forms.Form):
    """A text to be graded; an empty one takes the answer back."""

    text = forms.CharField(
        required=False,
        max_length=LONGEST_PROMPT,
        widget=forms.Textarea(attrs={"rows": 12}),
        label="Your text",
    )

    def answer(self) -> dict[str, Any]:
        return {"text": self.cleaned_data["text"]}


class GradeForm(forms.Form):
    grade = forms.TypedChoiceField(
        coerce=int,
        choices=list(GRADES.items()),
        error_messages={"required": "Choose a grade from 1 to 5."},
    )
    comment = forms.CharField(
        required=False,
        max_length=2_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        label="Comment, which the author will read",
    )


class QualificationForm(forms.Form):
    """A document, pasted or as a file; a file with faults stands in the field to be mended."""

    file = forms.FileField(required=False, label="JSON file")
    text = forms.CharField(
        required=False,
        max_length=LARGEST_DOCUMENT,
        widget=forms.Textarea(attrs={"rows": 20, "spellcheck": "false"}),
        label="or the document itself",
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        text = str(cleaned.get("text", ""))
        if (file := cleaned.get("file")) is not None:
            text = self._read(file)
            self.data = self.data.copy()  # type: ignore[attr-defined]
            self.data["text"] = text  # type: ignore[index]
        if not text.strip() and not self.errors:
            raise forms.ValidationError("Choose a file or paste a document.")
        if not self.errors:
            cleaned["document"] = self._document(text)
        return cleaned

    def _read(self, file: Any) -> str:
        if file.size > LARGEST_DOCUMENT:
            limit = f"{LARGEST_DOCUMENT // 1_000_000} MB"
            raise forms.ValidationError(f"{file.name} is larger than the allowed {limit}.")
        try:
            return str(file.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise forms.ValidationError(f"{file.name} is not text in UTF-8.") from error

    def _document(self, text: str) -> qualification_document.Document | None:
        try:
            return qualification_document.read(text)
        except qualification_document.Malformed as error:
            shown = error.faults[:MOST_FAULTS]
            if more := len(error.faults) - len(shown):
                shown.append(f"And {more} more.")
            raise forms.ValidationError(shown) from error


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
