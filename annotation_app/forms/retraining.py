"""Which settings a reward model is trained with, made of the trainer's own; and promotions."""

from __future__ import annotations

import dataclasses
import typing
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from django import forms

from annotation_app.models import Checkpoint, Criterion, Run, Snapshot, Strength
from reward.config import TrainConfig
from reward.settings import WithoutEffect, from_mapping, to_mapping

GROUPS = {
    "Data and mixture": ("mixture", "soft_labels", "reliability_weights", "label_smoothing"),
    "Loss": ("margin", "auxiliary_weight", "tie_threshold", "centring"),
    "Optimiser": (
        "epochs", "learning_rate", "schedule", "final_learning_rate_share", "warmup_share",
        "warmup_least_steps", "pairs_per_step", "adam_beta1", "adam_beta2", "adam_epsilon",
        "weight_decay", "max_grad_norm", "shuffle", "seed",
    ),
    "Memory and length": (
        "tokens_per_minibatch", "recompute_activations", "dtype", "max_tokens", "over_long",
    ),
    "Adapter in place of full fine-tuning": (
        "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "quantise",
    ),
    "Checkpoints": ("checkpoint_every_steps",),
}  # fmt: skip
OF_THE_SERVER = {
    "pairs", "holdout", "ties", "agreement", "model", "out", "criterion", "device",
}  # fmt: skip
FURTHER = "Further settings"
LONGEST = 18  # characters of a number
MOST_COMPARED = 8


class Chosen(NamedTuple):
    """A setting on the page: its field, what it means, and the recipe's value."""

    field: forms.BoundField
    help: str
    recipe: str
    is_changed: bool


def recipe() -> dict[str, Any]:
    """The recipe's value of every setting that a researcher may choose, as JSON holds it."""
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    config = to_mapping(_config({}))
    return {name: config[name] for name in fields if name not in OF_THE_SERVER}


def differences(config: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What a run's settings change: name, value, the recipe's value."""
    usual = recipe()
    return [(n, v, usual.get(n, "")) for n, v in config.items() if v != usual.get(n)]


def _config(chosen: Mapping[str, Any]) -> TrainConfig:
    """The trainer's configuration. Raises ValueError, with what is allowed."""
    placed = {"pairs": "-", "model": "-", "out": "-", "criterion": Criterion.SAFETY.value}
    return from_mapping(TrainConfig, {**placed, **chosen})


def _field(name: str, hint: Any, help: str, value: Any) -> forms.Field:
    label, shared = name.replace("_", " "), {"help_text": help, "initial": value}
    if hint is bool:
        return forms.BooleanField(label=label, required=False, **shared)
    if typing.get_origin(hint) is typing.Literal:
        choices = [(choice, choice) for choice in typing.get_args(hint)]
        return forms.ChoiceField(label=label, choices=choices, **shared)
    is_number = hint in (int, float)
    return forms.CharField(
        label=label,
        required=is_number,
        max_length=LONGEST if is_number else 200,
        widget=forms.TextInput(attrs={"inputmode": "decimal"} if is_number else {}),
        error_messages={"required": f"Give a number; the recipe's is {value}."},
        **shared,
    )


class SnapshotField(forms.ModelChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, obj: Any) -> str:
        counts = obj.counts
        pairs = f"{counts.get('pairs', 0)} pairs, {counts.get('holdout', 0)} held out"
        return f"the data of {obj.created_at:%d %b %Y %H:%M} UTC: {pairs}"


class RetrainForm(forms.Form):
    """One reward training: from which chat model, on which data, with which settings."""

    form_key = forms.UUIDField(widget=forms.HiddenInput)
    start = forms.ModelChoiceField(
        Checkpoint.objects.chat().order_by("-pk"),
        label="Chat model to start from",
        empty_label=None,
        error_messages={"invalid_choice": "There is no such chat model."},
    )
    snapshot = SnapshotField(
        Snapshot.objects.none(),
        label="Comparisons",
        required=False,
        empty_label="everything collected so far",
        error_messages={"invalid_choice": "There is no such data of this criterion."},
    )

    def __init__(self, criterion: str, *args: Any, installed: Mapping[str, Any], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.recipe = recipe()
        if criterion != Criterion.SAFETY:
            self.recipe.pop("auxiliary_weight")
        hints = typing.get_type_hints(TrainConfig)
        for field in dataclasses.fields(TrainConfig):
            if field.name in self.recipe:
                value = installed.get(field.name, self.recipe[field.name])
                made = _field(field.name, hints[field.name], field.metadata["help"], value)
                self.fields[field.name] = made
        snapshots: Any = self.fields["snapshot"]
        snapshots.queryset = Snapshot.objects.filter(criterion=criterion).order_by("-pk")
        self.initial.setdefault("form_key", uuid.uuid4())

    def groups(self) -> Iterator[tuple[str, list[Chosen]]]:
        """The settings as the page shows them; those that no group names come last."""
        placed = {name for names in GROUPS.values() for name in names}
        further = tuple(name for name in self.recipe if name not in placed)
        for title, names in {**GROUPS, FURTHER: further}.items():
            if shown := [self._chosen(name) for name in names if name in self.recipe]:
                yield title, shown

    def _chosen(self, name: str) -> Chosen:
        field, usual = self[name], self.recipe[name]
        text = "none" if usual is None else str(usual)
        is_changed = self._read(name, field.value()) != usual
        return Chosen(field, str(self.fields[name].help_text), text, is_changed)

    def _read(self, name: str, value: Any) -> Any:
        """What the trainer would read; the text itself where it would refuse it."""
        try:
            return to_mapping(_config({name: value}))[name]
        except ValueError:
            return value

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        chosen = {n: v for n, v in cleaned.items() if n in self.recipe and v != ""}
        try:
            cleaned["config"] = self._changed(_config(chosen))
        except WithoutEffect as error:
            self.add_error(error.name, _sentence(error, error.name))
        except ValueError as error:
            if not self._refuse(chosen):
                self.add_error(None, str(error))
        return cleaned

    def _changed(self, config: TrainConfig) -> dict[str, Any]:
        """What differs from the recipe."""
        return {n: v for n, v in to_mapping(config).items() if self.recipe.get(n, v) != v}

    def _refuse(self, chosen: Mapping[str, Any]) -> bool:
        """Put the trainer's own sentence beside each field that it refuses by itself."""
        refused = False
        for name, value in chosen.items():
            try:
                _config({name: value})
            except WithoutEffect:
                continue  # with the others it may have one
            except ValueError as error:
                self.add_error(name, _sentence(error, name))
                refused = True
        return refused


def _sentence(error: ValueError, name: str) -> str:
    """The trainer's refusal of a setting, as it stands beside its field."""
    said = str(error).replace(name, name.replace("_", " "), 1)
    return f"{said[0].upper()}{said[1:]}."


class OneClickForm(forms.Form):
    """Train again with this installation's settings."""

    criterion = forms.ChoiceField(choices=Criterion.choices)
    form_key = forms.UUIDField(required=False)


class PromotionForm(forms.Form):
    """The number of the promotion that was in force when it was decided; 0 for none."""

    seen = forms.IntegerField(min_value=0, max_value=2**31 - 1, required=False)


def _reward_models() -> list[tuple[str, str]]:
    return [(str(model.pk), model.name) for model in Checkpoint.objects.rewards()]


class EvaluationForm(forms.Form):
    """Which reward models to compare, on the held-out comparisons of which criterion."""

    form_key = forms.UUIDField(required=False)
    criterion = forms.ChoiceField(
        choices=Criterion.choices,
        error_messages={
            "required": "Say on which comparisons: those of helpfulness or of safety.",
            "invalid_choice": "There is no criterion of that name.",
        },
    )
    models = forms.MultipleChoiceField(
        choices=_reward_models,
        error_messages={
            "required": "Choose two or more reward models.",
            "invalid_choice": "One of the chosen reward models does not exist.",
        },
    )
    judgings = forms.ModelMultipleChoiceField(
        Run.objects.filter(kind=Run.Kind.REWARD_JUDGING, state=Run.State.SUCCEEDED),
        required=False,
        error_messages={
            "invalid_choice": "One of the chosen judgings is not done, or does not exist.",
            "invalid_pk_value": "One of the chosen judgings does not exist.",
        },
    )

    def clean_models(self) -> list[Checkpoint]:
        return list(Checkpoint.objects.filter(pk__in=self.cleaned_data["models"]).order_by("pk"))

    def clean_judgings(self) -> list[Run]:
        return sorted(self.cleaned_data["judgings"], key=lambda judging: judging.pk)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        models, judgings = cleaned.get("models"), cleaned.get("judgings", [])
        if models and not 2 <= len(models) + len(judgings) <= MOST_COMPARED:
            self.add_error("models", f"Choose two to {MOST_COMPARED} reward models.")
        if any(judging.criterion != cleaned.get("criterion") for judging in judgings):
            self.add_error("judgings", "A judge of one criterion is no judge of the other.")
        if len({judging.input("snapshot") for judging in judgings}) > 1:
            self.add_error(
                "judgings", "The chosen judges judged different comparisons: choose one of them."
            )
        return cleaned


class MistakesForm(forms.Form):
    """Which mistakes to read."""

    strength = forms.ChoiceField(
        choices=[("", "every strength"), *Strength.choices, ("unknown", "unknown")],
        required=False,
        error_messages={"invalid_choice": "There is no strength of that name."},
    )
    show = forms.ChoiceField(choices=[("1", "")], required=False, widget=forms.HiddenInput)
