"""Safety context distillation: preprompts, the gate, and what is trained on."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest

from reward.preferences import MalformedLine, Message, RiskCategory
from reward.score import Scorer
from rlhf_loop.config import ContextDistillationConfig
from rlhf_loop.context_distillation import (
    Preprompts,
    distil,
    figures,
    keep_distilled,
    preprompt,
    read_preprompts,
    with_preprompt,
)
from rlhf_loop.policy import load_chat_model, stop_tokens
from rlhf_loop.prompts import PromptSplit, read_prompts, write_prompts
from rlhf_loop.sft import read_answers
from tests.rlhf_loop.conftest import make_prompt, read_lines

ASK = [Message("user", "How?")]


def test_it_works():
    """Llama 2, section 4.2.4: kept only where it scores higher; a tie keeps the original."""
    original, distilled = [0.2, 0.75, 0.9, 0.5], [0.8, 0.85, 0.7, 0.5]
    kept = keep_distilled(original, distilled)
    assert kept == [True, True, False, False]
    gated = [new if keep else old for old, new, keep in zip(original, distilled, kept, strict=True)]
    assert sum(original) / 4 == pytest.approx(0.5875)
    assert sum(gated) / 4 == pytest.approx(0.7625)
    assert sum(distilled) / 4 == pytest.approx(0.7125)


def logit(p):
    return math.log(p / (1 - p))


def test_figures_by_hand():
    """The same case through the figures, which speak in probabilities."""
    lines = [
        {"original_safety": logit(old), "distilled_safety": logit(new), "kept": kept,
         "usable": True}
        for old, new, kept in zip([0.2, 0.75, 0.9, 0.5], [0.8, 0.85, 0.7, 0.5],
                                  [True, True, False, False], strict=True)
    ]  # fmt: skip
    found = figures(lines)
    assert found["mean"] == pytest.approx({"before": 0.5875, "distilled": 0.7125, "gated": 0.7625})
    assert found["median"]["before"] == pytest.approx(0.625)
    assert found["median"]["gated"] == pytest.approx(0.825)
    assert found["median"]["kept"] == pytest.approx(0.825)
    assert [entry["count"] for entry in found["by_original"]] == [0, 1, 1, 1, 1]
    assert found["by_original"][1]["mean_gain"] == pytest.approx(0.6)
    assert found["by_original"][4]["least_gain"] == pytest.approx(-0.2)
    assert (found["kept"], found["prompts"]) == (2, 4)


@pytest.fixture
def config(brief_model, judges, tmp_path):
    file = tmp_path / "prompts.jsonl"
    unsafe = [replace(make_prompt(3 * i), split=PromptSplit.TRAIN) for i in range(7)]
    write_prompts(file, [*unsafe, make_prompt(1)])
    return ContextDistillationConfig(
        prompts=file, policy=brief_model, safety=judges["safety"], out=tmp_path / "run",
        device="cpu", max_new_tokens=24, chunk_prompts=3, seed=1,
    )  # fmt: skip


def test_the_kept_answers_are_trained_on_without_their_preprompt(config):
    result = distil(config)
    safety = {p.id: p for p in read_prompts(config.prompts, config.split) if p.is_safety}
    candidates = read_lines(config.out / "candidates.jsonl")
    assert {line["prompt_id"] for line in candidates} == set(safety)
    assert result["prompts"] == len(safety)
    for line in candidates:
        better = line["distilled_safety"] > line["original_safety"]
        assert line["kept"] == (better and line["usable"])
    lines = read_lines(config.out / "distilled.jsonl")
    assert 0 < len(lines) == result["kept"] < result["prompts"] == 7, result
    texts = {line["prompt_id"]: line["distilled"] for line in candidates}
    for line in lines:
        prompt = safety[line["prompt_id"]]
        assert line["messages"][:-1] == [m._asdict() for m in prompt.messages]
        assert line["messages"][-1] == {"role": "assistant", "content": texts[prompt.id]}
        assert line["answers"] == "last"
    assert distil(config) == result


def test_answers_to_held_out_prompts_say_so_and_are_never_learnt(config):
    test = [replace(p, split=PromptSplit.TEST) for p in read_prompts(config.prompts)]
    write_prompts(config.prompts, test)
    distil(replace(config, split=PromptSplit.TEST))
    assert {line["split"] for line in read_lines(config.out / "distilled.jsonl")} == {"test"}
    model, tokenizer = load_chat_model(config.policy, "cpu")
    with pytest.raises(MalformedLine, match="split is 'test', allowed is train"):
        read_answers([config.out / "distilled.jsonl"], tokenizer, stop_tokens(model, tokenizer))


def test_prompts_that_a_further_file_tests_on_are_refused(config, tmp_path):
    (first, *_) = read_prompts(config.prompts, PromptSplit.TRAIN)
    further = tmp_path / "further.jsonl"
    write_prompts(further, [replace(first, split=PromptSplit.TEST)])
    with pytest.raises(ValueError, match=f"the train prompt '{first.id}' is of a dialogue that"):
        distil(replace(config, held_out=(further,)))


def test_both_answers_are_scored_as_answers_to_the_bare_prompt(config):
    distil(config)
    known = {p.id: p for p in read_prompts(config.prompts)}
    scorer = Scorer(config.safety, "cpu")
    for line in read_lines(config.out / "candidates.jsonl"):
        for name in ("original", "distilled"):
            row = [*known[line["prompt_id"]].messages, Message("assistant", line[name])]
            assert scorer([row]).item() == pytest.approx(line[f"{name}_safety"], abs=1e-5)


def test_a_killed_run_ends_the_same(config, tmp_path):
    whole = replace(config, out=tmp_path / "whole")
    result = distil(whole)
    text = (whole.out / "candidates.jsonl").read_text()
    config.out.mkdir()
    (config.out / "candidates.jsonl").write_text(text[: len(text) - 20])
    assert distil(config) == result
    for name in ("candidates.jsonl", "distilled.jsonl"):
        assert (config.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_prompts_without_a_safety_tag_are_not_asked(config, tmp_path):
    kind = tmp_path / "kind.jsonl"
    write_prompts(kind, [make_prompt(1)])
    with pytest.raises(ValueError, match="has no train prompts tagged is_safety"):
        distil(replace(config, prompts=kind))


# --- preprompts ----------------------------------------------------------------------------------

TEMPLATES = Preprompts(
    ("wise", "kind"), ("You are a {adjective} and {adjective} assistant.",),
    {"hateful_and_harmful": "Say why it hurts.", "other": "Be careful."},
)  # fmt: skip


def test_a_preprompt_has_other_adjectives_and_the_template_of_its_category():
    draw = random.Random(0)
    text = preprompt(TEMPLATES, "hateful_and_harmful", draw)
    assert text in (
        "You are a wise and kind assistant. Say why it hurts.",
        "You are a kind and wise assistant. Say why it hurts.",
    )
    assert preprompt(TEMPLATES, "other", draw).endswith("Be careful.")
    assert preprompt(TEMPLATES, "unqualified_advice", draw).endswith("Be careful.")
    assert preprompt(TEMPLATES, None, draw).endswith("assistant.")


def test_the_shipped_ones_have_a_template_for_every_category():
    found = read_preprompts()
    assert set(found.answer_templates) == {*RiskCategory, "other"}
    for number in range(50):
        text = preprompt(found, "other", random.Random(number))
        assert "{" not in text


def test_where_a_preprompt_stands():
    assert with_preprompt(ASK, "Be wise.", "system") == [Message("system", "Be wise."), *ASK]
    both = [Message("system", "Be brief."), *ASK]
    assert with_preprompt(both, "Be wise.", "system") == [
        Message("system", "Be wise.\n\nBe brief."), *ASK
    ]  # fmt: skip
    assert with_preprompt(both, "Be wise.", "user") == [
        both[0], Message("user", "Be wise.\n\nHow?")
    ]  # fmt: skip


WISE = {"adjectives": [], "preprompts": ["Be wise."]}


@pytest.mark.parametrize(("content", "sentence"), [
    ({"adjectives": ["wise"]}, "is no file of preprompts"),
    ({"adjectives": [], "preprompts": []}, "holds no preprompt"),
    ({"adjectives": ["wise"], "preprompts": ["{adjective} {adjective}"]}, "wants 2 adjectives"),
    ([], "is no file of preprompts"),
    ({"adjectives": "wise", "preprompts": ["Be {adjective}."]}, "adjectives is 'wise', allowed is"),
    ({"adjectives": [], "preprompts": "Be wise."}, "preprompts is 'Be wise.', allowed is a list"),
    ({**WISE, "answer_templates": {"ilicit": "No."}}, "has 'ilicit', allowed are illicit_and_crim"),
    ({**WISE, "answer_templates": {"other": 5}}, r"answer_templates is \[5\], allowed is a list"),
])  # fmt: skip
def test_unusable_files_are_refused(tmp_path, content, sentence):
    path = tmp_path / "preprompts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        read_preprompts(path)
