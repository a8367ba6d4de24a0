import json
from dataclasses import replace

import pytest

from reward.judge import JudgeRefused
from reward.lines import append_records
from reward.run_folder import RunFolder
from rlhf_loop.config import EvaluateConfig
from rlhf_loop.evaluate import evaluate, evenly
from rlhf_loop.prompts import PromptSplit, write_prompts
from rlhf_loop.serving import SamplerRefused
from tests.reward.chat_server import Answer, chat_server, says
from tests.rlhf_loop.conftest import make_prompt, read_lines
from tests.tiny_models import other_words, tiny_chat_model


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    return EvaluateConfig(
        prompts=prompts, policy=chat_model, against=chat_model, **judges, out=tmp_path / "run",
        device="cpu", max_new_tokens=8, shown=2, diversity_prompts=2, diversity_samples=3,
    )  # fmt: skip


def test_a_model_against_itself_is_a_draw(config):
    result = evaluate(config)
    for score in ("helpfulness", "safety", "combined"):
        found = result["all"][score]
        assert (found["difference"], found["win_rate"]) == (0.0, 0.5)
    assert result["kl"] == pytest.approx(0.0, abs=1e-6)
    assert result["all"]["count"] == 4
    assert len(result["samples"]) == 2
    assert len(read_lines(config.out / "responses.jsonl")) == 4
    assert RunFolder(config.out).metrics()[-1]["eval/all/safety/win_rate"] == 0.5
    assert evaluate(config) == result


def test_another_model_has_a_divergence_and_its_own_answers(config, tmp_path):
    other = tiny_chat_model(tmp_path / "other", seed=5)
    result = evaluate(EvaluateConfig(**{**vars(config), "policy": other}))
    assert result["kl"] > 0
    assert any(sample["before"]["text"] != sample["after"]["text"] for sample in result["samples"])


def test_models_of_other_tokens_have_no_divergence_and_the_gate_says_so(config, tmp_path):
    """The same tokens are other words to each: any number would be one of nothing."""
    other = other_words(tiny_chat_model(tmp_path / "other", seed=5))
    found = evaluate(replace(config, policy=other, gate={"kl_most": 5.0}))
    assert found["kl"] is None
    assert "the divergence from the old model" in found["gate"]["unmeasured"]
    assert found["all"]["count"] == 4


def test_prompts_without_the_split_are_refused(config, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match="has no test prompts"):
        evaluate(EvaluateConfig(**{**vars(config), "prompts": empty}))


def test_an_address_that_is_put_right_needs_no_other_folder(config):
    with pytest.raises(SamplerRefused, match="did not answer"):
        evaluate(replace(config, address="http://127.0.0.1:9"))
    assert evaluate(config)["all"]["count"] == 4


def test_answers_are_of_the_settings_that_they_were_begun_with(config, monkeypatch):
    """Killed between the first answers and their figures too."""

    def stop(*_, **figures):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    with pytest.raises(ValueError, match="was started with seed=0, not 1: use another --out"):
        evaluate(replace(config, seed=1))


# --- what a release is judged by beside the round's own reward models ----------------------------


@pytest.fixture
def other(tmp_path):
    return tiny_chat_model(tmp_path / "other", seed=5)


def test_every_measure_is_paired_and_the_gate_reads_it(config, other, judges, tmp_path):
    task = tmp_path / "facts.jsonl"
    line = {"query": "How long?", "choices": ["Two years.", "No."], "gold": 0}
    task.write_text((json.dumps(line) + "\n") * 5)
    result = evaluate(
        replace(config, policy=other, independent=judges["safety"], tasks=(task,), shown=0)
    )
    for name in ("combined", "independent", "length_tokens", "refused"):
        found = result["all"][name]
        assert found["low"] <= found["difference"] <= found["high"], name
    assert result["all"]["independent"]["after"] == pytest.approx(
        result["all"]["safety"]["after"], abs=1e-5
    )
    assert (result["self_bleu"]["prompts"], result["self_bleu"]["samples"]) == (2, 3)
    assert 0 < result["self_bleu"]["before"] <= 1
    assert result["tasks"]["facts"]["count"] == 5
    assert result["gate"]["unmeasured"] == [
        "refusals of borderline prompts", "a judge", "people, side by side",
    ]  # fmt: skip
    assert result["gate"]["passes"] == (not result["gate"]["reasons"])


def test_a_killed_run_goes_on_with_what_is_missing_and_ends_the_same(
    config, other, tmp_path, monkeypatch
):
    """Killed after each part of the answers; every step is logged once."""
    monkeypatch.setattr("rlhf_loop.evaluate.PART_ANSWERS", 3)
    whole = evaluate(replace(config, policy=other))
    again = replace(config, policy=other, out=tmp_path / "again")
    stored = 0

    def stop(path, records, plain=append_records):
        nonlocal stored
        plain(path, records)
        stored += 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlhf_loop.parts.append_records", stop)
        for _ in range(2 + 2 + 2 + 2):  # 4 answers and twice 3 of each side, at most 3 together
            with pytest.raises(KeyboardInterrupt):
                evaluate(again)
    (again.out / "several-before.jsonl.tmp").write_text("half a li")
    assert evaluate(again) == whole
    assert stored == 8
    for name in ("answers-before.jsonl", "responses.jsonl", "several-after.jsonl"):
        assert (again.out / name).read_bytes() == (config.out / name).read_bytes()
    steps = [(line["step"], line["total"]) for line in RunFolder(again.out).metrics()]
    assert steps == [(n, 12) for n in range(1, 13)]


def test_further_prompts_count_too(config, tmp_path):
    further = tmp_path / "further.jsonl"
    borderline = [
        replace(make_prompt(number), split=PromptSplit.TEST, is_borderline=True)
        for number in (22, 23)
    ]
    write_prompts(further, [*borderline, make_prompt(7)])  # p7 is in the first file already
    result = evaluate(replace(config, further_prompts=(further,)))
    assert result["all"]["count"] == 6
    assert result["borderline_prompts"]["count"] == 2
    assert "refusals of borderline prompts" not in result["gate"]["unmeasured"]


def test_an_id_of_two_different_prompts_is_refused(config, tmp_path):
    """The second one was silently dropped."""
    further = tmp_path / "further.jsonl"
    write_prompts(further, [replace(make_prompt(23), id="p7", split=PromptSplit.TEST)])
    sentence = f"the id 'p7' stands in {config.prompts} and in {further} for prompts that differ"
    with pytest.raises(ValueError, match=sentence):
        evaluate(replace(config, further_prompts=(further,)))


def test_prompts_of_one_root_are_one_dialogue(config, other, tmp_path):
    """Two questions of a dialogue: no interval, so nothing was measured of them."""
    further = tmp_path / "further.jsonl"
    borderline = [
        replace(make_prompt(number), split=PromptSplit.TEST, is_borderline=True, root="one")
        for number in (22, 23)
    ]
    write_prompts(further, borderline)
    asked = replace(config, policy=other, further_prompts=(further,), diversity_prompts=99)
    result = evaluate(asked)
    found = result["borderline_prompts"]
    assert found["count"] == 2
    for name in ("helpfulness", "length_tokens", "refused"):
        assert (found[name]["low"], found[name]["high"]) == (None, None), name
    assert "refusals of borderline prompts" in result["gate"]["unmeasured"]
    assert result["self_bleu"]["prompts"] == 4
    assert result["self_bleu"]["low"] is not None  # the two others have roots of their own
    only = replace(asked, out=tmp_path / "only", prompts=further, further_prompts=())
    assert evaluate(only)["self_bleu"]["low"] is None


def test_no_diversity_where_none_is_asked_for(config):
    result = evaluate(replace(config, diversity_prompts=0, diversity_samples=10))
    assert "self_bleu" not in result
    assert "diversity" in result["gate"]["unmeasured"]


def judged_by(server, config, **changes):
    return replace(config, judge_address=server.address, judge_model="wise", **changes)


def for_the_new(words):
    """A judge who prefers the new answer, in both orders; told by the words it writes."""

    def answer(request):
        text = request["messages"][-1]["content"]
        first = text.split("<response_A>\n")[1].split("\n</response_A>")[0]
        return says("VERDICT: A" if first in words else "VERDICT: B")

    return answer


def test_a_judge_reads_both_orders(config, other, tmp_path):
    plain = evaluate(replace(config, policy=other, shown=99))
    new = {sample["after"]["text"] for sample in plain["samples"]}
    asked = replace(config, policy=other, out=tmp_path / "judged")
    with chat_server(for_the_new(new)) as server:
        result = evaluate(judged_by(server, asked))
        different = [s for s in plain["samples"] if s["before"]["text"] != s["after"]["text"]]
        assert len(server.heard) == 2 * len(different)
    found = result["judge"]["helpfulness"]
    assert found["wins"] + found["ties"] == found["count"]
    assert found["losses"] == 0
    assert found["win_rate"] > 0.5


def test_a_judge_who_always_takes_the_first_says_nothing(config, other):
    with chat_server(lambda request: says("VERDICT: A")) as server:
        result = evaluate(judged_by(server, replace(config, policy=other)))
    for found in result["judge"].values():
        assert (found["win_rate"], found["ties"]) == (0.5, found["count"])


def test_a_judge_may_say_what_refuses(config, other):
    asked = replace(config, policy=other)
    reply = "VERDICT: REFUSED"

    def answer(request):
        is_refusal = "What does the response do" in request["messages"][-1]["content"]
        return says(reply if is_refusal else "VERDICT: TIE")

    with chat_server(answer) as server:
        result = evaluate(judged_by(server, asked, refusals="judge"))
    assert result["all"]["refused"]["before"] == result["all"]["refused"]["after"] == 1


def test_a_judge_who_is_not_there_ends_the_run_with_a_sentence(config, other):
    asked = replace(config, policy=other)
    with (
        chat_server(lambda request: Answer(b"no", status=403)) as server,
        pytest.raises(JudgeRefused, match="403"),
    ):
        evaluate(judged_by(server, asked))


def test_settings_that_make_no_sense_are_refused(config):
    for changes, sentence in (
        ({"judge_model": "wise"}, "a judge needs both"),
        ({"refusals": "judge"}, "needs a judge_address"),
        ({"gate": {"refusal_rise": 3}}, "refusal_rise is 3"),
        ({"gate": {"unknown": 3}}, "unknown setting 'unknown'"),
        ({"diversity_samples": 1}, "diversity_samples is 1, allowed is 2 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            replace(config, **changes)


def test_prompts_are_thinned_evenly():
    assert [p.id for p in evenly([make_prompt(i) for i in range(10)], 3)] == ["p0", "p3", "p6"]
    assert evenly([], 3) == []
