"""Settings: flags and JSON give the same dataclass, and what does not fit is named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from reward.config import ScalingConfig, TrainConfig
from reward.settings import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    REQUIRED,
    Settings,
    from_mapping,
    other_setting,
    parse,
    setting,
    to_flags,
    to_mapping,
)
from rlhf_loop.config import PPOConfig


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """An example."""

    data: Path = setting(REQUIRED, "a file")
    count: int = setting(3, "how many", AT_LEAST_1)
    heat: tuple[float, ...] = setting((1.0,), "one or more, 100 % of them", NOT_NEGATIVE)
    way: Literal["up", "down"] = setting("up", "where to")
    is_fast: bool = setting(True, "or not")
    limit: int | None = setting(None, "at most")
    stage: dict[str, Any] = setting({}, "an object")


@pytest.mark.parametrize("text", ["up", "down"])
def test_flags_and_json_agree(text):
    example = Example(
        data=Path("a b.jsonl"), count=7, heat=(0.5, 1.0), way=text, is_fast=False, stage={"x": [1]}
    )
    assert parse(Example, "example", to_flags(to_mapping(example))) == example
    assert from_mapping(Example, json.loads(json.dumps(to_mapping(example)))) == example


def test_flags_stand_above_the_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"data": "x", "count": 5, "limit": null}')
    found = parse(Example, "example", ["--config", str(file), "--count", "9"])
    assert (found.data, found.count, found.limit) == (Path("x"), 9, None)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "setting 'data' is missing: --data"),
        ({"data": "x", "counts": 1}, "unknown setting 'counts', allowed are data, count"),
        ({"data": "x", "count": 0}, "count is 0, allowed is 1 or more"),
        ({"data": "x", "count": 1.5}, "count is 1.5, allowed is a whole number"),
        ({"data": "x", "count": True}, "count is True, allowed is a whole number"),
        ({"data": "x", "heat": [1, -1]}, "heat is -1.0, allowed is 0 or more"),
        ({"data": "x", "heat": "nan"}, "heat is nan, allowed is 0 or more"),
        ({"data": "x", "way": "left"}, "way is 'left', allowed are up, down"),
        ({"data": "x", "is_fast": 1}, "is_fast is 1, allowed are true, false"),
        ({"data": "x", "stage": "[1]"}, r"stage is '\[1\]', allowed is a JSON object"),
    ],
)
def test_what_does_not_fit_is_named(values, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        from_mapping(Example, values)


@pytest.mark.parametrize(
    ("config", "values", "sentence"),
    [
        (TrainConfig, {"warmup_share": 1.5}, "warmup_share is 1.5, allowed is between 0 and 1"),
        (TrainConfig, {"max_grad_norm": 0}, "max_grad_norm is 0.0, allowed is above 0"),
        (TrainConfig, {"adam_beta2": 1}, "adam_beta2 is 1.0, allowed is 0 or more and below 1"),
        (TrainConfig, {"learning_rate": "inf"}, "learning_rate is inf, allowed is above 0"),
        (PPOConfig, {"threshold": 1}, "threshold is 1.0, allowed is above 0 and below 1"),
        (PPOConfig, {"generation_rows": 0}, "generation_rows is 0, allowed is 1 or more"),
        (PPOConfig, {"minibatch": 100}, "minibatch is 100, allowed are divisors of batch 512"),
    ],
)
def test_ranges_of_the_commands(config, values, sentence):
    required = {
        TrainConfig: {"pairs": "p", "model": "m", "out": "o", "criterion": "safety"},
        PPOConfig: dict.fromkeys(("prompts", "policy", "helpfulness", "safety", "out"), "x"),
    }[config]
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        from_mapping(config, required | values)


REQUIRED_OF = {
    TrainConfig: {"pairs": "p", "model": "m", "out": "o", "criterion": "safety"},
    ScalingConfig: {"pairs": "p", "holdout": "h", "models": "m", "out": "o", "criterion": "safety"},
}


@pytest.mark.parametrize(
    ("config", "values", "sentence", "with_it"),
    [
        (TrainConfig, {"ties": "t"}, "ties is t, which changes nothing: it needs tie_threshold "
         "above 0", {"tie_threshold": 0.1}),
        (TrainConfig, {"lora_alpha": 32}, "lora_alpha is 32, which changes nothing: it needs "
         "lora_rank above 0", {"lora_rank": 8}),
        (TrainConfig, {"lora_dropout": 0.1}, "lora_dropout is 0.1, which", {"lora_rank": 8}),
        (TrainConfig, {"lora_targets": "q_proj"}, "lora_targets is q_proj, wh", {"lora_rank": 8}),
        (TrainConfig, {"quantise": "4bit"}, "quantise is 4bit, which changes", {"lora_rank": 8}),
        (TrainConfig, {"schedule": "constant", "final_learning_rate_share": 0.5},
         "final_learning_rate_share is 0.5, which changes nothing: it needs schedule=cosine",
         {"schedule": "cosine"}),
        (ScalingConfig, {"batches": ["one", "two"], "shares": 0.5},
         "batches is one two, which changes nothing: it needs no shares beside it", {"shares": ()}),
    ],
)  # fmt: skip
def test_what_would_change_nothing_is_refused(config, values, sentence, with_it):
    """A setting that is taken and not used looks like one that did not help."""
    with pytest.raises(ValueError, match=f"^{sentence}"):
        from_mapping(config, REQUIRED_OF[config] | values)
    from_mapping(config, REQUIRED_OF[config] | values | with_it)


@pytest.mark.parametrize(
    ("was", "now", "other"),
    [
        ({}, {"tokens_per_minibatch": 9, "device": "cuda", "recompute_activations": True}, None),
        ({}, {"tokens_per_minibatch": 9, "seed": 1, "epochs": 2}, "epochs"),
        (
            {"lora_rank": 4, "lora_dropout": 0.1},
            {"tokens_per_minibatch": 9},
            "tokens_per_minibatch",
        ),
        ({"lora_rank": 4, "lora_dropout": 0.1}, {"device": "cpu"}, "device"),
        ({"lora_rank": 4}, {"device": "cpu"}, None),
    ],
)
def test_a_run_may_go_on_with_what_says_how(was, now, other):
    """Dropout draws for what goes through the model at once."""
    began = to_mapping(from_mapping(TrainConfig, REQUIRED_OF[TrainConfig] | was))
    assert other_setting(TrainConfig, began, began | now) == other


@pytest.mark.parametrize(
    ("training", "other"),
    [({"tokens_per_minibatch": 9}, None), ({"tokens_per_minibatch": 9, "epochs": 2}, "training")],
)
def test_trainings_of_a_scaling_run_too(training, other):
    began = to_mapping(from_mapping(ScalingConfig, REQUIRED_OF[ScalingConfig]))
    assert other_setting(ScalingConfig, began, began | {"training": training}) == other


def test_help_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        parse(Example, "example", ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--count COUNT how many (default 3)" in shown
    assert "100 % of them" in shown
    assert "--data DATA a file (required)" in shown
