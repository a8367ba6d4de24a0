"""Reward models side by side, through the command's own folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward import compare as comparing
from reward.compare import compare, main, named
from reward.config import CompareConfig
from reward.evaluate import main as evaluate_main
from reward.preferences import Message, Verdict, write_pairs
from reward.run_folder import RunFolder
from reward.scores import read_scores, write_scores
from tests.reward.measures.test_report import simulated
from tests.reward.pairs import pair, pairs
from tests.reward.reward_models import encoder, ours, pad_is_end


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [ours(root / "one"), ours(root / "two", seed=1)]


@pytest.fixture
def config(tmp_path, models) -> CompareConfig:
    write_pairs(tmp_path / "pairs.jsonl", pairs(30))
    return CompareConfig(
        models=tuple(models), pairs=tmp_path / "pairs.jsonl", out=tmp_path / "run",
        tokens_per_minibatch=200, resamples=200, device="cpu",
    )  # fmt: skip


def test_it_works(config):
    result = compare(config)
    assert [model["name"] for model in result["models"]] == ["one", "two"]
    assert (result["count"], result["roots"], result["left_out"]) == (30, 30, 0)
    assert result["batches"] == ["Week 0", "Week 1"]
    (test,) = result["paired"]
    first, second = (model["report"]["accuracy"] for model in result["models"])
    assert test["difference"] == pytest.approx(first - second)
    lines = RunFolder(config.out).metrics()
    assert lines[-1]["step"] == lines[-1]["total"] == 60
    for model in result["models"]:
        scored = read_scores(config.out / model["scores"], pairs(30))
        assert sum(item.credit for item in scored) / 30 == model["report"]["accuracy"]


def test_a_finished_folder_is_left_alone(config):
    assert compare(config) == compare(config)


def test_it_goes_on_with_the_models_not_yet_scored(config, monkeypatch):
    """Killed after the first model: that one is not scored again."""
    real, scored = comparing.load_any, []

    def load(folder, device):
        scored.append(folder.name)
        if scored == ["one", "two"]:
            raise KeyboardInterrupt
        return real(folder, device)

    monkeypatch.setattr(comparing, "load_any", load)
    with pytest.raises(KeyboardInterrupt):
        compare(config)
    assert not (config.out / "result.json").exists()
    result = compare(config)
    assert scored == ["one", "two", "two"]
    assert [line["step"] for line in RunFolder(config.out).metrics()][-1] == 60
    again = compare(replace(config, out=config.out.with_name("other")))
    assert {**result, "seconds": 0} == {**again, "seconds": 0}


def test_pairs_that_one_cannot_score_count_for_none(config):
    write_pairs(config.pairs, [*pairs(10), pair(99, chosen="word " * 200)])
    result = compare(replace(config, max_tokens=200))
    assert (result["count"], result["left_out"]) == (10, 1)
    assert [model["over_long"] for model in result["models"]] == [1, 1]


def test_only_the_criterion_counts(config):
    long = pair(99, chosen="word " * 200)
    write_pairs(config.pairs, [*pairs(10), long, *pairs(6, "safety", first=20)])
    result = compare(replace(config, criterion="safety", max_tokens=200))
    assert result["count"] == result["paired"][0]["count"] == 6
    assert (result["left_out"], result["models"][0]["over_long"]) == (0, 1)


def test_the_ceiling_is_of_the_files_named(config, tmp_path):
    verdicts = (Verdict("x", "a"), Verdict("y", "b"))
    write_pairs(tmp_path / "ties.jsonl", [pair(50, verdicts=verdicts, share=0.5)])
    write_pairs(config.pairs, [replace(p, verdicts=(Verdict("x", "a"),)) for p in pairs(8)])
    result = compare(replace(config, agreement=(config.pairs, tmp_path / "ties.jsonl")))
    found = result["models"][0]["report"]["ceiling"]
    assert (found["agreement"], found["agreement_count"], found["model_count"]) == (0, 1, 8)


def test_a_judge_stands_beside(config, tmp_path):
    judged = tmp_path / "judge"
    judged.mkdir()
    RunFolder(judged).write_provenance({"pairs": config.pairs})
    scored = [item._replace(pair=p) for item, p in zip(simulated(29), pairs(29), strict=True)]
    write_scores(judged / "scores.jsonl", scored)
    result = compare(replace(config, judged=(judged,), names=("A", "B", "GPT")))
    assert (result["count"], result["left_out"], len(result["paired"])) == (29, 1, 3)
    assert [model["kind"] for model in result["models"]] == ["reward_model"] * 2 + ["judge"]
    assert result["models"][2]["report"]["calibration"] is None


def test_a_judge_of_other_pairs_is_refused(config, tmp_path):
    """Under the same ids another answer may be the chosen one."""
    write_pairs(tmp_path / "older.jsonl", pairs(29))
    (tmp_path / "judge").mkdir()
    RunFolder(tmp_path / "judge").write_provenance({"pairs": tmp_path / "older.jsonl"})
    with pytest.raises(ValueError, match="judged other pairs than"):
        compare(replace(config, judged=(tmp_path / "judge",)))


# --- anybody's model ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [encoder, pad_is_end, ours])
def test_a_model_scores_as_transformers_has_it(config, tmp_path, make):
    """Each row alone through AutoModelForSequenceClassification, without padding."""
    folder = make(tmp_path / "other")
    compare(replace(config, models=(folder,)))
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for item in read_scores(config.out / "scores-1.jsonl", pairs(30)):
        for text, score in ((item.pair.chosen, item.chosen), (item.pair.rejected, item.rejected)):
            messages = [*item.pair.prompt, Message("assistant", text)]
            ids = tokenizer.apply_chat_template(
                [m._asdict() for m in messages], return_tensors="pt", return_dict=False
            )
            with torch.no_grad():
                assert model(ids).logits.item() == pytest.approx(score, abs=1e-5)


def test_two_outputs_are_refused(config, tmp_path):
    folder = encoder(tmp_path / "two-outputs", outputs=2)
    with pytest.raises(ValueError, match="has 2 outputs, allowed is one: the score"):
        compare(replace(config, models=(folder,)))


def test_a_model_without_a_chat_template_is_refused(config, tmp_path):
    folder = encoder(tmp_path / "no-template")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="has no chat template"):
        compare(replace(config, models=(folder,)))


def test_a_chat_model_is_no_reward_model(config, models):
    chat = models[0].with_name("one-chat")
    with pytest.raises(ValueError, match="holds LlamaForCausalLM, not a reward model"):
        compare(replace(config, models=(chat,)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"models": ()}, "nothing to compare"),
        ({"names": ("A",)}, "1 names for 2 models"),
        ({"names": ("A", "A")}, "allowed are names that differ"),
    ],
)
def test_names(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        named(replace(config, **changes))


def test_models_in_run_folders_are_called_by_the_folder(config):
    paths = (Path("runs/a/model"), Path("runs/b/model"))
    assert [c.name for c in named(replace(config, models=paths))] == ["a", "b"]
    paths = (Path("x/a/model"), Path("y/a/model"))
    assert [c.name for c in named(replace(config, models=paths))] == ["x/a/model", "y/a/model"]


def test_what_is_no_reward_model_is_refused_before_any_is_scored(config, models):
    chat = models[0].with_name("one-chat")
    with pytest.raises(ValueError, match="one-chat holds LlamaForCausalLM, not a reward model"):
        compare(replace(config, models=(models[0], chat)))
    assert not list(config.out.glob("scores-*"))


def test_changed_pairs_are_refused(config):
    compare(config)
    (config.out / "result.json").unlink()
    write_pairs(config.pairs, pairs(29))
    with pytest.raises(ValueError, match=r"pairs .* has changed since"):
        compare(config)


def test_an_id_twice_is_refused(config):
    write_pairs(config.pairs, [*pairs(3), pair(1)])
    with pytest.raises(ValueError, match="id 'pair-1' stands there twice"):
        compare(config)


def test_the_command_prints_the_main_figures(config, models, capsys):
    main(["--models", *map(str, models), "--pairs", str(config.pairs), "--out", str(config.out)])
    printed = capsys.readouterr().out
    assert "30 pairs of 30 dialogues" in printed
    assert "one: accuracy 0." in printed
    assert "one less two: " in printed


def test_a_refusal_is_one_sentence(config):
    with pytest.raises(SystemExit, match="nowhere"):
        main(["--models", "nowhere", "--pairs", str(config.pairs), "--out", str(config.out)])


def test_evaluate_says_the_same(config, models, tmp_path):
    out = tmp_path / "figures.json"
    evaluate_main(["--model", str(models[0]), "--pairs", str(config.pairs), "--out", str(out)])
    found = json.loads(out.read_text())
    report = compare(replace(config, resamples=2000))["models"][0]["report"]
    assert found.pop("over_long") == 0
    assert found.keys() == report.keys()
    assert found["accuracy"] == report["accuracy"]
    assert found["length"]["slope"] == pytest.approx(report["length"]["slope"], rel=1e-4)
