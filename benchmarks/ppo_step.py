"""A PPO step here beside TRL 1.12's experimental PPOTrainer, the last release that has one.

    python -m venv ENV
    ENV/bin/pip install torch==2.13.0 trl==1.12.0 transformers==5.23.0 datasets accelerate
    python -m benchmarks.ppo_step --trl-python ENV/bin/python --out out.json

A step is a whole iteration: answers drawn, scored, compared with the reference, valued, learnt
from. Both sides have the same weights (a Llama of six layers, hidden 256, the demo's tokenizer, 5.5
million parameters), the same prompts, answers of the same length (weights are random, so a stop
token is drawn once in 3,072 tokens), AdamW, float32, one gradient step. TRL has a value model of
its own that starts from the reward model: Tandem is run with one too, and with the value head on
the policy's trunk that is its default. Both ask one reward model: Tandem is given one folder for
its two.

The sides take turns, each turn a process of a few steps whose first does not count; figures are
medians over turns of the medians of steps, on the wall and in processor time: on a machine that
others use too only the latter compares, and best with one thread. Memory is the largest resident
set of the process. Where a step of Tandem's goes is told apart, in processor time: drawing,
scoring, the passes over the answers, the update.

With ``--device cuda`` both sides compute on the one GPU that CUDA_VISIBLE_DEVICES leaves them. Then
times are taken once the GPU has ended its work, parts of a step are on the wall, and memory is the
largest that torch allocated there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"Tandem, value model": "helpfulness", "Tandem, value head": "trunk", "TRL": None}
PARTS = ("drawing", "scoring", "passes", "update")
CASES = {"16 x 32": (16, 32), "128 x 64": (128, 64)}


def prepare(work: Path, batch: int) -> dict[str, Any]:
    """Start weights, and prompts of 20 to 62 tokens for both sides."""
    import gzip

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from reward.model import load_tokenizer, save_reward_model, start_from_chat_model
    from reward.preferences import Message, dialogue_root
    from rlhf_loop.policy import prompt_tokens, save_chat_model
    from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts

    tokenizer = load_tokenizer(ROOT / "demo" / "checkpoints" / "starter-a")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=688, num_hidden_layers=6,
        num_attention_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    save_chat_model(LlamaForCausalLM(config), tokenizer, work / "policy")
    save_reward_model(*start_from_chat_model(work / "policy", 0), work / "reward")
    prompts: list[Prompt] = []
    with gzip.open(ROOT / "demo" / "data" / "hh-harmless-base.jsonl.gz", "rt") as lines:
        for line in lines:
            text = json.loads(line)["chosen"].split("\n\n")[1].removeprefix("Human: ")
            messages = (Message("user", text),)
            count = len(prompt_tokens(tokenizer, messages))
            if 20 <= count <= 62 and len(prompts) < 2 * batch:
                root = dialogue_root(messages)
                split = PromptSplit.VALIDATION if len(prompts) == batch else PromptSplit.TRAIN
                prompts.append(Prompt(f"p{len(prompts)}", root, messages, False, None, split))
    write_prompts(work / "prompts.jsonl", prompts)
    rows = [prompt_tokens(tokenizer, prompt.messages) for prompt in prompts]
    return {"prompts": rows, "prompt_tokens": statistics.fmean(map(len, rows))}


def steps_here(settings: dict[str, Any]) -> None:
    """In a child: a few iterations, and where their time goes."""
    import torch

    from rlhf_loop.config import PPOConfig
    from rlhf_loop.learning import learner as learning
    from rlhf_loop.ppo import batch_prompts
    from rlhf_loop.prompts import read_prompts
    from rlhf_loop.rollout import RewardModels, learning_targets

    work, batch = Path(settings["work"]), settings["batch"]
    config = PPOConfig(
        prompts=work / "prompts.jsonl", policy=work / "policy", helpfulness=work / "reward",
        safety=work / "reward", out=work / "unused", device=settings["device"], batch=batch,
        minibatch=batch, max_new_tokens=settings["tokens"], learning_rate=settings["rate"],
        value=settings["value"], tokens_per_minibatch=settings["at_once"],
    )  # fmt: skip
    spent, on_gpu = dict.fromkeys(PARTS, 0.0), settings["device"] != "cpu"

    def clock() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.monotonic()

    def timed(name: str, work: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = clock()
            found = work(*args, **kwargs)
            spent[name] += clock() - started
            return found

        return call

    learning.sample_and_score = timed("drawing", learning.sample_and_score)
    RewardModels.score = timed("scoring", RewardModels.score)
    prompts = list(read_prompts(config.prompts))
    learner, steps = learning.Learner(config, torch.device(settings["device"])), []
    for iteration in range(1, settings["steps"] + 1):
        spent.update(dict.fromkeys(PARTS, 0.0))
        started, began, cpu = clock(), time.monotonic(), time.process_time()
        rollout = learner.collect(batch_prompts(prompts, batch, iteration, 0), iteration)
        collected = clock()
        learner.update(rollout, learning_targets(rollout, config), iteration)
        ended = clock()
        spent["passes"] = collected - started - spent["drawing"]
        spent["drawing"] -= spent["scoring"]  # which is within it
        spent["update"] = ended - collected
        whole = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
        peak = {"memory_mib": torch.cuda.max_memory_allocated() / 2**20} if on_gpu else {}
        steps.append({**whole, **peak, **spent})
    Path(settings["result"]).write_text(json.dumps(steps), encoding="utf-8")


def turn(settings: dict[str, Any], python: Path | None, threads: int) -> dict[str, Any]:
    """One process of one side; the medians of its steps after the first, and its memory."""
    file = Path(settings["result"]).with_suffix(".settings.json")
    file.write_text(json.dumps(settings), encoding="utf-8")
    here = [sys.executable, "-m", "benchmarks.ppo_step", "--child"]
    there = [str(python), str(Path(__file__).with_name("_trl_ppo.py"))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    log = file.with_suffix(".log")
    with log.open("w") as output:
        command = [*(there if python else here), str(file)]
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(log.read_text()[-3000:])
    steps = json.loads(Path(settings["result"]).read_text())[1:]
    medians = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    return {"memory_mib": usage.ru_maxrss / 1024, **medians}  # steps know of a GPU's themselves


def compare(arguments: argparse.Namespace, name: str, work: Path) -> dict[str, Any]:
    """Every side in turn; medians, and Tandem beside TRL within each turn."""
    batch, tokens = CASES[name]
    given = prepare(work, batch)
    turns: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(arguments.turns):
        for side, value in SIDES.items():
            settings = {
                "work": str(work), "policy": str(work / "policy"), "reward": str(work / "reward"),
                "prompts": given["prompts"], "batch": batch, "tokens": tokens, "value": value,
                "steps": arguments.steps, "rate": 1e-6, "out": str(work / "trl"),
                "at_once": arguments.tokens_per_minibatch, "device": arguments.device,
                "result": str(work / f"{number}-{value}.json"),
            }  # fmt: skip
            python = None if value else arguments.trl_python.absolute()
            turns[side].append(turn(settings, python, arguments.threads))
            print(f"  turn {number + 1}, {side}: {turns[side][-1]}", flush=True)
    return {
        "prompt_tokens": given["prompt_tokens"],
        **{side: _medians(found, turns["TRL"]) for side, found in turns.items()},
    }


def _medians(found: Sequence[dict[str, Any]], trl: Sequence[dict[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(found, trl, strict=True))
    ratios = {
        name: statistics.median(theirs[name] / ours[name] for ours, theirs in pairs)
        for name in ("seconds", "cpu_seconds", "memory_mib")
    }
    medians = {name: statistics.median(t[name] for t in found) for name in found[0]}
    return {**medians, "trl_takes_times_as_much": ratios, "turns": list(found)}


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["--child"]:
        steps_here(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trl-python", type=Path, required=True, help="interpreter with TRL 1.12")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of a turn; the first is left out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens-per-minibatch", type=int, default=2048, help="Tandem's setting")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    report: dict[str, Any] = {}
    for name in arguments.cases:
        print(f"{name}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            report[name] = compare(arguments, name, Path(folder))
        for side in SIDES:
            shown = {k: v for k, v in report[name][side].items() if k != "turns"}
            print(f"  {side}: {shown}", flush=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
