"""What is asked of scaling and of judges."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django import forms

from annotation_app.forms.retraining import SnapshotField
from annotation_app.models import Checkpoint, Criterion, Run, Snapshot
from annotation_app.models.checkpoint import reward_kind
from reward.config import ScalingConfig
from reward.settings import from_mapping, to_mapping

MOST_STARTS = 6
MOST_PARTS = 20
MOST_SEEDS = 10
LONGEST_SEED = 9  # digits
MOST_NEXT = 10_000_000
PLACED = {"pairs": "-", "holdout": "-", "models": ["-"], "out": "-"}


class ScalingViewForm(forms.Form):
    """Which points to look at: of which criterion, from which evaluation, with which next batch."""

    criterion = forms.ChoiceField(
        choices=Criterion.choices,
        required=False,
        error_messages={"invalid_choice": "There is no criterion of that name."},
    )
    of = forms.ModelChoiceField(
        Run.objects.filter(kind=Run.Kind.REWARD_EVALUATION, state=Run.State.SUCCEEDED),
        required=False,
        error_messages={"invalid_choice": "There is no such finished comparison of reward models."},
    )
    next = forms.IntegerField(
        min_value=0,
        max_value=MOST_NEXT,
        required=False,
        label="Comparisons in the next batch",
        error_messages={"invalid": "Give the next batch as a whole number."},
    )

    def clean_criterion(self) -> str:
        return self.cleaned_data["criterion"] or Criterion.HELPFULNESS

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        of = cleaned.get("of")
        if of is not None and of.criterion != cleaned.get("criterion"):
            self.add_error("of", f"{of} is not of this criterion.")
        return cleaned


class StartsField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.name}, {obj.line}"


class AsTrainedField(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Any) -> str:
        return f"those of {obj.name}"


class NumbersField(forms.CharField):
    """Numbers with blanks or commas between."""

    def clean(self, value: Any) -> list[str]:
        return str(super().clean(value)).replace(",", " ").split()


class ScalingForm(forms.Form):
    """Trainings on more and more of what was collected: from which chat models, how, how often."""

    form_key = forms.UUIDField(widget=forms.HiddenInput)
    starts = StartsField(
        Checkpoint.objects.chat().order_by("-pk"),
        label="Chat models to start from",
        widget=forms.CheckboxSelectMultiple,
        help_text="Several sizes give a line each.",
        error_messages={
            "required": "Choose a chat model to start from.",
            "invalid_choice": "There is no such chat model.",
            "invalid_pk_value": "There is no such chat model.",
        },
    )
    snapshot = SnapshotField(
        Snapshot.objects.none(),
        label="Comparisons",
        empty_label=None,
        help_text="Frozen data of a training: its held-out part is what everything is measured on.",
        error_messages={
            "required": "Choose the data.",
            "invalid_choice": "There is no such data of this criterion.",
        },
    )
    grow = forms.ChoiceField(
        choices=[("batches", "batch by batch"), ("shares", "by shares of the dialogues")],
        label="Grow",
        help_text="A line takes three parts or more.",
        error_messages={"invalid_choice": "It grows batch by batch or by shares."},
    )
    shares = NumbersField(
        label="Shares",
        max_length=200,
        required=False,
        help_text="Where it grows by shares: each part lies within the next, 1 is everything.",
    )
    seeds = NumbersField(
        label="Seeds",
        max_length=100,
        help_text="Each part is trained once with each; several show what chance does.",
        error_messages={"required": "Give a seed, such as 0."},
    )
    next_pairs = forms.IntegerField(
        min_value=0,
        max_value=MOST_NEXT,
        required=False,
        label="Comparisons in the next batch",
        help_text="0: as many as the last step.",
        error_messages={"invalid": "Give the next batch as a whole number."},
    )
    as_trained = AsTrainedField(
        Checkpoint.objects.none(),
        label="Settings",
        required=False,
        empty_label="those of this installation",
        help_text="All trainings have the same.",
        error_messages={"invalid_choice": "There is no such reward model of this criterion."},
    )

    def __init__(self, criterion: str, *args: Any, installed: Mapping[str, Any], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.criterion, self.installed = criterion, installed
        fields: Any = self.fields
        fields["snapshot"].queryset = Snapshot.objects.with_holdout(criterion)
        trained = Checkpoint.objects.filter(kind=reward_kind(criterion), run__isnull=False)
        fields["as_trained"].queryset = trained.select_related("run").order_by("-pk")
        self.initial = {"form_key": uuid.uuid4(), "shares": "0.125 0.25 0.5 1", "seeds": "0",
                        "next_pairs": 0, **self.initial}  # fmt: skip

    def clean_starts(self) -> list[Checkpoint]:
        starts = sorted(self.cleaned_data["starts"], key=lambda start: start.pk)
        if len(starts) > MOST_STARTS:
            raise forms.ValidationError(f"Choose {MOST_STARTS} chat models at most.")
        return starts

    def clean_seeds(self) -> list[str]:
        seeds: list[str] = self.cleaned_data["seeds"]
        if not all(seed.isdecimal() and len(seed) <= LONGEST_SEED for seed in seeds):
            raise forms.ValidationError(f"Give whole numbers of {LONGEST_SEED} digits at most.")
        return self._few(seeds, MOST_SEEDS)

    def clean_shares(self) -> list[str]:
        shares: list[str] = self.cleaned_data["shares"]
        if self.cleaned_data.get("grow") != "shares":
            return []
        if not shares:
            raise forms.ValidationError("Give the shares, such as 0.25 0.5 1.")
        return self._few(shares, MOST_PARTS)

    def _few(self, numbers: list[str], most: int) -> list[str]:
        if len(set(numbers)) < len(numbers):
            raise forms.ValidationError("Give each number once.")
        if len(numbers) > most:
            raise forms.ValidationError(f"Give {most} numbers at most.")
        return numbers

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned["config"] = {"training": self._training(cleaned.get("as_trained"))}
        for name in ("seeds", "shares", "next_pairs"):
            if value := cleaned.get(name):
                self._choose(cleaned["config"], name, value)
        return cleaned

    def _training(self, like: Checkpoint | None) -> dict[str, Any]:
        """The settings of each training; the seed is chosen here."""
        config = like.run.config if like and like.run else self.installed
        return {name: value for name, value in config.items() if name != "seed"}

    def _choose(self, config: dict[str, Any], name: str, value: Any) -> None:
        """Take a setting as the command reads it, or put the command's own sentence beside it."""
        given = {**PLACED, "criterion": self.criterion, name: value}
        try:
            config[name] = to_mapping(from_mapping(ScalingConfig, given))[name]
        except ValueError as error:
            sentence = str(error)
            self.add_error(name, f"{sentence[0].upper()}{sentence[1:]}.")


class JudgingForm(forms.Form):
    """A judging of one criterion's held-out comparisons."""

    criterion = forms.ChoiceField(
        choices=Criterion.choices,
        error_messages={
            "required": "Say which comparisons: those of helpfulness or of safety.",
            "invalid_choice": "There is no criterion of that name.",
        },
    )
    form_key = forms.UUIDField(required=False)
