"""Two processes, each drawing and learning from its part, end where one process ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reward.run_folder import RunFolder
from tests.reward.chat_server import chat_server
from tests.rlhf_loop.drawing_server import LastHanded
from tests.rlhf_loop.steps_of_ranks import launch

CASES = {
    "value head": {},
    "value model": {"value": "safety", "truncated": "keep"},
    "rloo": {"advantage": "rloo", "answers_per_prompt": 3},
    "at an address": {},  # of two; one draws here
}
ROUNDED = {
    "value": "safety", "train_dtype": "bfloat16", "recompute_activations": True,
    "reuse_logprobs": False,
}  # fmt: skip


def settings(out: Path, prompts: Path, chat_model: Path, judges: dict[str, Path], **chosen):
    """Nine answers a step: no part of two is even."""
    wanted = {
        "prompts": prompts, "policy": chat_model, **judges, "out": out, "device": "cpu",
        "max_new_tokens": 10, "iterations": 3, "batch": 18, "minibatch": 9, "adam_epsilon": 1.0,
        "learning_rate": 0.5, "validate_every": 2, "tokens_per_minibatch": 60, **chosen,
    }  # fmt: skip
    return {k: str(v) if isinstance(v, Path) else v for k, v in wanted.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, prompts, chat_model, judges) -> Path:
    work = tmp_path_factory.mktemp("ranks")
    chosen, engine = {name: dict(case) for name, case in CASES.items()}, LastHanded(work / "note")
    with chat_server(engine) as server:
        for number in (1, 2):
            runs = [
                ("ppo", settings(work / f"{case} {number}", prompts, chat_model, judges, **more))
                for case, more in chosen.items()
            ]
            rounded = settings(work / f"rounded {number}", prompts, chat_model, judges, **ROUNDED)
            runs.append(("ppo", rounded))
            launch(number, runs, work / f"{number}.json")
            chosen["at an address"] = {"address": server.address, "hand_over": engine.hand_over}
    assert [Path(folder).name[0] for folder in engine.folders] == list("0123")
    return work


@pytest.mark.parametrize("case", CASES)
def test_it_works(trained, case):
    """Weights, figures of every iteration and validations of two ranks are those of one."""
    one, two = (trained / f"{case} {number}" for number in (1, 2))
    weights = [load_file(run / "model" / "model.safetensors") for run in (one, two)]
    first, second = (torch.cat([w[n].double().flatten() for n in sorted(w)]) for w in weights)
    assert (first - second).norm() < 1e-5 * first.norm()
    lines = [RunFolder(run).metrics() for run in (one, two)]
    assert [line["step"] for line in lines[0]] == [0, 1, 2, 3]
    for mine, theirs in zip(*lines, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            if not name.startswith(("time", "seconds", "ppo/ratio/")):
                assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-4), name
        if mine["step"]:  # before the first only validation is logged
            assert theirs["ppo/ratio/first_error"] < 1e-5
    results = [RunFolder(run).result() for run in (one, two)]
    assert [result["ranks"] for result in results] == [1, 2]
    assert results[0]["best_iteration"] == results[1]["best_iteration"]


def test_in_bfloat16_ratios_and_divergence_begin_at_one_and_zero(trained):
    """Whole models, which are asked, round what divided ones round when they learn: norms too, that
    have moved in the later iterations. If they did not, ratios would be some 6e-4 off."""
    one, two = (RunFolder(trained / f"rounded {number}").metrics() for number in (1, 2))
    for first, *later in (one, two):
        assert first["eval/kl"] == later[0]["objective/kl"] == 0.0
        assert max(line["ppo/ratio/first_error"] for line in later) < 1e-4
    for name in ("eval/kl", "ppo/grad_norm", "ppo/loss/value"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=1e-2), name
        assert two[-1][name] != one[-1][name], name


@pytest.mark.parametrize("case", CASES)
def test_the_weights_have_moved(trained, chat_model, case):
    """Or else nothing would have been compared."""
    final = [line for line in RunFolder(trained / f"{case} 2").metrics() if line["step"] == 3]
    assert abs(final[0]["eval/kl"]) > 1e-3


def test_more_processes_than_prompts_are_refused(
    monkeypatch, prompts, chat_model, judges, tmp_path
):
    from reward import ranks
    from reward.settings import from_mapping
    from rlhf_loop.config import PPOConfig
    from rlhf_loop.ppo import _refuse_idle_ranks

    config = from_mapping(PPOConfig, settings(tmp_path, prompts, chat_model, judges, batch=9))
    monkeypatch.setattr(ranks, "count", lambda: 4)
    with pytest.raises(ValueError, match="4 processes were launched, and there are 2 prompts"):
        _refuse_idle_ranks(config, ["one", "two"])
