"""Training: it learns, it resumes bit for bit, and it refuses what cannot be trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward.config import TrainConfig
from reward.data import mix, row_tokens, tokenise, within_length
from reward.evaluate import main as evaluate_main
from reward.model import start_from_chat_model
from reward.optimiser import build_optimiser, cosine_share
from reward.preferences import Criterion, Message, Verdict, read_pairs, write_pairs
from reward.run_folder import RunFolder
from reward.score import main as score_main
from reward.train import (
    learning_rate_share,
    optimiser_step,
    train,
    warmup_steps,
)
from tests.reward.pairs import pair, pairs
from tests.tiny_models import tiny_chat_model


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def config(tmp_path, chat) -> TrainConfig:
    write_pairs(tmp_path / "pairs.jsonl", pairs(64))
    write_pairs(tmp_path / "holdout.jsonl", pairs(40, first=100))
    return TrainConfig(
        pairs=tmp_path / "pairs.jsonl",
        holdout=tmp_path / "holdout.jsonl",
        model=chat,
        out=tmp_path / "run",
        criterion=Criterion.HELPFULNESS,
        learning_rate=3e-3,
        pairs_per_step=8,
        epochs=3,
        checkpoint_every_steps=4,
        device="cpu",
    )


def changed(config: TrainConfig, **fields) -> TrainConfig:
    return TrainConfig(**{**vars_of(config), **fields})


def vars_of(config: TrainConfig) -> dict:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def weights(out: Path) -> dict:
    return load_file(out / "model" / "model.safetensors")


def flags(config: TrainConfig) -> list[str]:
    words = []
    for name, value in vars_of(config).items():
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    return words


def test_it_works(config):
    result = train(config)
    folder = RunFolder(config.out)
    lines = folder.metrics()
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert lines[-1]["loss"] < lines[0]["loss"] / 2
    assert result["holdout"]["accuracy"] > 0.9
    assert result["holdout"]["count"] == 40
    assert set(result["holdout"]["by_strength"]) == {
        "significantly_better", "better", "slightly_better", "negligibly_better"
    }  # fmt: skip
    assert not folder.checkpoint.exists()


def test_a_finished_folder_is_left_alone(config):
    first = train(config)
    before = (config.out / "result.json").stat().st_mtime_ns
    assert train(config) == first
    assert (config.out / "result.json").stat().st_mtime_ns == before


def test_same_seed_same_weights(config, tmp_path):
    train(config)
    train(changed(config, out=tmp_path / "again"))
    train(changed(config, out=tmp_path / "other", seed=1))
    assert torch.equal(weights(config.out)["score.weight"],
                       weights(tmp_path / "again")["score.weight"])  # fmt: skip
    assert not torch.equal(weights(config.out)["score.weight"],
                           weights(tmp_path / "other")["score.weight"])  # fmt: skip


FURTHER = {
    "tie_threshold": 0.5,
    "soft_labels": True,
    "label_smoothing": 0.1,
    "reliability_weights": True,
    "centring": 0.1,
}


@pytest.mark.parametrize("losses", [{}, FURTHER], ids=["recipe", "further losses"])
def test_minibatches_give_the_gradient_of_the_big_batch(chat, losses):
    """On safety pairs, whose auxiliary loss counts known labels only."""
    gradients = []
    verdicts = [(Verdict("x", "a", weight=n / 7), Verdict("y", "a")) for n in range(32)]
    judged = [
        replace(pair, share=0.6 + 0.01 * n, verdicts=verdicts[n])
        for n, pair in enumerate(pairs(32, "safety"))
    ]
    for size in (8192, 150, 1):
        model, tokenizer = start_from_chat_model(chat, seed=0)
        rows = tokenise(tokenizer, judged)
        if "tie_threshold" in losses:
            rows[::5] = [row._replace(is_tie=True) for row in rows[::5]]
        config = TrainConfig(
            pairs=Path(), model=Path(), out=Path(), criterion=Criterion.SAFETY,
            tokens_per_minibatch=size, max_grad_norm=1e9, learning_rate=1e-3,
            warmup_least_steps=1, **losses,
        )  # fmt: skip
        optimiser = build_optimiser(model, config)
        optimiser.zero_grad = lambda set_to_none=True: None
        optimiser.step = lambda: None
        optimiser_step(model, optimiser, rows, config, 1, 10)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-5 * gradients[0].norm()


def test_each_further_loss_is_off_by_default(config):
    judged = [
        replace(pair, share=0.7, verdicts=(Verdict("x", "a", weight=number % 3 + 1),))
        for number, pair in enumerate(pairs(16))
    ]
    write_pairs(config.pairs, judged)
    losses = set()
    for name, value in {"seed": 0, **FURTHER}.items():
        other = changed(config, out=config.out.with_name(name), **{name: value})
        train(other)
        losses.add(RunFolder(other.out).metrics()[0]["loss"])
    assert len(losses) == 1 + len(FURTHER)


@pytest.mark.parametrize(("total", "steps"), [(100, 5), (1000, 30), (2770, 84)])
def test_warm_up_as_in_section_3_2_2(config, total, steps):
    assert warmup_steps(total, config) == steps
    assert learning_rate_share(steps, total, config) == 1
    assert learning_rate_share(total, total, config) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("progress", "share"), [(0, 1), (0.25, 0.868198), (0.5, 0.55), (0.75, 0.231802), (1, 0.1)]
)
def test_the_cosine_ends_at_a_tenth(progress, share):
    assert cosine_share(progress, 0.1) == pytest.approx(share, abs=1e-6)


def test_ties_are_learnt_from_where_a_threshold_is_set(config):
    ties = config.pairs.with_name("ties.jsonl")
    write_pairs(ties, [replace(pair(n), id=f"tie {n}", share=0.5) for n in range(200, 216)])
    with pytest.raises(ValueError, match=r"ties is .*, which changes nothing: it needs tie_thresh"):
        changed(config, ties=ties)
    config = changed(config, ties=ties, tie_threshold=0.5)
    result = train(config)
    assert (result["pairs"], result["ties"]) == (len(list(read_pairs(config.pairs))), 16)
    lines = RunFolder(config.out).metrics()
    assert (
        sum(line["pairs"] for line in lines[: len(lines) // config.epochs]) == 16 + result["pairs"]
    )


def test_a_tie_of_a_held_out_dialogue_is_a_leak(config):
    ties = config.pairs.with_name("ties.jsonl")
    held = next(iter(read_pairs(config.holdout)))
    write_pairs(ties, [replace(held, share=0.5)])
    with pytest.raises(ValueError, match="stand in the pairs and in the holdout"):
        train(changed(config, ties=ties, tie_threshold=0.5))


def test_another_configuration_is_refused_in_the_same_folder(config):
    train(config)
    with pytest.raises(ValueError, match=r"was started with seed=0, not 1"):
        train(changed(config, seed=1))


def test_a_leak_is_refused(config):
    write_pairs(config.holdout, [pair(3)])
    with pytest.raises(ValueError, match="stand in the pairs and in the holdout"):
        train(config)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"chosen": " "}, "empty answer"), ({"rejected": "Gladly, it is 3."}, "identical answers")],
)
def test_pairs_that_cannot_be_ranked_are_refused(config, fields, sentence):
    write_pairs(config.pairs, [pair(3, **fields)])
    with pytest.raises(ValueError, match=sentence):
        train(config)


def test_over_long_pairs_are_dropped_and_counted(config):
    write_pairs(config.pairs, [*pairs(16), pair(99, chosen="word " * 400)])
    result = train(changed(config, max_tokens=200))
    assert (result["pairs"], result["over_long"]) == (16, 1)


def test_over_long_pairs_lose_their_oldest_turns(config, chat):
    system, said = Message("system", "Be short."), Message("assistant", "Word. " * 60)
    long = [system, Message("user", "First?"), said, Message("user", "Second?"), said]
    last = Message("user", "Third?")
    kept, hopeless = pair(98, prompt=(*long, last)), pair(99, chosen="word " * 400)
    write_pairs(config.pairs, [*pairs(16), kept, hopeless])
    result = train(changed(config, max_tokens=200, over_long="cut"))
    assert (result["pairs"], result["over_long"], result["cut"]) == (17, 1, 1)
    _, tokenizer = start_from_chat_model(chat, 0)
    (row,) = within_length(tokenizer, tokenise(tokenizer, [kept]), 200, "cut").rows
    whole = [*(system, last), Message("assistant", kept.chosen)]
    assert row.pair.prompt == (system, last)
    assert row.chosen == row_tokens(tokenizer, whole)


def test_a_wrong_setting_is_one_sentence():
    command = [sys.executable, "-m", "reward.train", "--margin", "huge"]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 2
    assert "setting 'pairs' is missing" in child.stderr


def test_the_commands_agree(config, tmp_path):
    result = train(config)
    evaluate_main(["--model", str(config.out / "model"), "--pairs", str(config.holdout),
                   "--out", str(tmp_path / "figures.json")])  # fmt: skip
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["accuracy"] == result["holdout"]["accuracy"]
    lines = [
        {"messages": [m._asdict() for m in item.prompt] + [{"role": "assistant", "content": text}]}
        for item in pairs(40, first=100)
        for text in (item.chosen, item.rejected)
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_main(["--model", str(config.out / "model"), "--input", str(source),
                "--output", str(target)])  # fmt: skip
    scores = [json.loads(line)["score"] for line in target.read_text().splitlines()]
    right = sum(c > r for c, r in zip(scores[::2], scores[1::2], strict=True))
    assert right / 40 == figures["accuracy"]


def test_the_published_mixture():
    imported = [pair(n, source="imported", id=f"i{n}") for n in range(50)]
    safety = [pair(n, "safety", id=f"s{n}") for n in range(90)]
    own = [pair(n, id=f"h{n}") for n in range(40)]
    every = imported + safety + own
    helpfulness = mix(every, Criterion.HELPFULNESS, "published", seed=0)
    assert len(helpfulness) == 80
    assert {p.id for p in own} <= {p.id for p in helpfulness}
    mixed = mix(every, Criterion.SAFETY, "published", seed=0)
    assert sum(p.criterion == "safety" for p in mixed) == 90
    assert sum(p.criterion == "helpfulness" for p in mixed) == 10
    bootstrap = mix(imported + safety, Criterion.HELPFULNESS, "published", seed=0)
    assert len(bootstrap) == 100
