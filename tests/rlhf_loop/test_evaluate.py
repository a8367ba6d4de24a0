import math

import pytest

from reward.run_folder import RunFolder
from rlhf_loop.config import EvaluateConfig
from rlhf_loop.evaluate import compare, evaluate, paired
from tests.rlhf_loop.conftest import make_prompt, read_lines
from tests.tiny_models import tiny_chat_model


def test_paired_figures_by_hand():
    found = paired([0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 4.0, 2.0])  # differences 1, 0, 2, -1
    half = 1.959964 * math.sqrt((0.5**2 + 0.5**2 + 1.5**2 + 1.5**2) / 3) / 2
    expected = {"before": 1.5, "after": 2.0, "difference": 0.5, "win_rate": 0.625}
    expected |= {"low": 0.5 - half, "high": 0.5 + half}
    assert found == pytest.approx(expected)


def test_one_pair_has_no_interval():
    found = paired([0.0], [1.0])
    assert (found["low"], found["high"], found["win_rate"]) == (None, None, 1.0)


def record(score):
    scores = dict.fromkeys(("helpfulness", "safety", "combined"), score)
    return {**scores, "length_tokens": 3, "finish_reason": "stop"}


def test_safety_prompts_are_counted_apart():
    prompts = [make_prompt(i) for i in range(4)]  # 0 and 3 are safety prompts
    found = compare(prompts, [record(0.0)] * 4, [record(float(i)) for i in range(4)])
    counts = {name: group["count"] for name, group in found.items()}
    assert counts == {"all": 4, "helpfulness_prompts": 2, "safety_prompts": 2}
    assert found["safety_prompts"]["safety"]["after"] == 1.5
    assert compare(prompts[1:3], [record(0.0)] * 2, [record(1.0)] * 2)["safety_prompts"] is None


@pytest.fixture
def config(prompts, chat_model, judges, tmp_path):
    return EvaluateConfig(
        prompts=prompts, policy=chat_model, against=chat_model, **judges, out=tmp_path / "run",
        device="cpu", max_new_tokens=8, shown=2,
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


def test_prompts_without_the_split_are_refused(config, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match="has no test prompts"):
        evaluate(EvaluateConfig(**{**vars(config), "prompts": empty}))
