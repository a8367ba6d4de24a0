"""Rejection sampling: ``python -m rlhf_loop.rejection`` (Llama 2, section 3.2.3).

K answers to every train prompt, each scored by both reward models; the best one by the combined
score is fine-tuned on. ``candidates.jsonl`` holds every answer with its scores, ``selected.jsonl``
the best ones as dialogues, ``model/`` the fine-tuned chat model.

An answer that was cut at the limit is never selected: fine-tuning on it would teach an end where
there is none. Which score chooses is not in the paper; here it is the one that PPO learns from.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from reward.lines import append_records, whole_records, write_records
from reward.preferences import Message, read_json_lines
from reward.run_folder import RunFolder, RunFolderBusy, replace_folder
from reward.settings import parse, to_mapping
from rlhf_loop.config import RejectionConfig
from rlhf_loop.policy import (
    Drawing,
    chunks,
    load_chat_model,
    row_seed,
    save_chat_model,
    stop_tokens,
)
from rlhf_loop.prompts import Prompt, PromptSplit, read_prompts
from rlhf_loop.rollout import RewardModels, sample_and_score
from rlhf_loop.sft import answer_row, fine_tune

Record = dict[str, Any]


def run_rejection(config: RejectionConfig) -> Record:
    """Sample, select and fine-tune what is not done yet; returns the run's result.

    Raises ValueError where the prompts file has no train prompts or no answer can be selected,
    RunFolderBusy when another process runs in the same folder.
    """
    run = RunFolder(config.out)
    with run.locked():
        run.write_config(to_mapping(config))
        finished = run.result()
        if finished is not None:
            return finished
        prompts = list(read_prompts(config.prompts, PromptSplit.TRAIN))
        if not prompts:
            raise ValueError(f"{config.prompts} has no train prompts, and sampling needs some")
        selected_file = run.path / "selected.jsonl"
        if not selected_file.exists():
            write_records(selected_file, _select(config, run, prompts))
        figures = _fine_tune(
            config, run, whole_records(selected_file), _chunk_count(config, prompts)
        )
        run.write_result({"model": "model", **_summary(config, run, prompts), **figures})
        return run.result() or {}


def _select(config: RejectionConfig, run: RunFolder, prompts: Sequence[Prompt]) -> list[Record]:
    rewards = RewardModels(config.helpfulness, config.safety, config.threshold, config)
    _sample(config, run, prompts, rewards)
    return select_best(prompts, [*_candidates(run), *_earlier_candidates(config, rewards)])


def _chunk_count(config: RejectionConfig, prompts: Sequence[Prompt]) -> int:
    return math.ceil(len(prompts) / config.chunk_prompts)


def _candidates(run: RunFolder) -> list[Record]:
    return whole_records(run.path / "candidates.jsonl")


def _sample(
    config: RejectionConfig, run: RunFolder, prompts: Sequence[Prompt], rewards: RewardModels
) -> None:
    """Append the candidates of the chunks of prompts that are not stored yet."""
    model, tokenizer = load_chat_model(config.policy, config.device, config.dtype)
    drawing = Drawing(config.max_new_tokens, config.temperature, config.top_p)
    total = _chunk_count(config, prompts)
    total += config.epochs * math.ceil(len(prompts) / config.batch)
    done = _whole_chunks(config, run, prompts)
    run.rewind_metrics(done)
    for number, part in enumerate(chunks(len(prompts), config.chunk_prompts), start=1):
        if number <= done:
            continue
        asked = [(p, k) for p in prompts[part] for k in range(config.samples)]
        seeds = [row_seed(config.seed, "rejection", p.id, k) for p, k in asked]
        answers, texts, scores = sample_and_score(
            model, tokenizer, rewards, [p for p, _ in asked], seeds, drawing, config
        )
        records = [
            {
                "prompt_id": prompt.id,
                "sample": sample,
                "seed": seeds[i],
                "text": texts[i],
                "finish_reason": "stop" if answers[i].finished else "length",
                "helpfulness": scores.helpfulness[i].item(),
                "safety": scores.safety[i].item(),
                "score": scores.combined[i].item(),
            }
            for i, (prompt, sample) in enumerate(asked)
        ]
        append_records(run.path / "candidates.jsonl", records)
        run.log_metrics(number, total, **_chunk_figures(records))


def _whole_chunks(config: RejectionConfig, run: RunFolder, prompts: Sequence[Prompt]) -> int:
    """How many chunks are stored whole; what a killed run stored of the next one is dropped.

    A chunk is drawn as a whole or not at all, so that its scores are the same to the last bit.
    """
    records = _candidates(run)
    if len(records) == len(prompts) * config.samples:
        return _chunk_count(config, prompts)
    rows = config.chunk_prompts * config.samples
    whole = len(records) // rows
    if len(records) > whole * rows:
        write_records(run.path / "candidates.jsonl", records[: whole * rows])
    return whole


def _chunk_figures(records: Sequence[Record]) -> dict[str, float]:
    best: dict[str, float] = {}
    for record in records:
        best[record["prompt_id"]] = max(record["score"], best.get(record["prompt_id"], -math.inf))
    return {
        "objective/scores": _mean(record["score"] for record in records),
        "objective/helpfulness": _mean(record["helpfulness"] for record in records),
        "objective/safety": _mean(record["safety"] for record in records),
        "objective/truncated": _mean(record["finish_reason"] == "length" for record in records),
        "rejection/best_scores": _mean(best.values()),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / max(len(found), 1)


def _earlier_candidates(config: RejectionConfig, rewards: RewardModels) -> list[Record]:
    """The best answers of earlier rounds, scored by this round's reward models."""
    records: list[Record] = []
    for path in config.earlier:
        lines = [line for _, line in read_json_lines(path)]
        prompts = [_answered_prompt(line) for line in lines]
        for part in chunks(len(lines), config.chunk_prompts):
            texts = [line["messages"][-1]["content"] for line in lines[part]]
            scores = rewards.score(prompts[part], texts)
            records += [
                {
                    "prompt_id": prompt.id,
                    "prompt": prompt,
                    "sample": None,
                    "text": text,
                    "finish_reason": "stop",
                    "helpfulness": scores.helpfulness[i].item(),
                    "safety": scores.safety[i].item(),
                    "score": scores.combined[i].item(),
                    "source": str(path),
                }
                for i, (prompt, text) in enumerate(zip(prompts[part], texts, strict=True))
            ]
    return records


def _answered_prompt(line: Record) -> Prompt:
    messages = tuple(Message(**message) for message in line["messages"][:-1])
    return Prompt(line["prompt_id"], line["root"], messages, line["is_safety"])


def select_best(prompts: Sequence[Prompt], candidates: Sequence[Record]) -> list[Record]:
    """The best finished, non-empty candidate of each prompt, as a dialogue to fine-tune on.

    A prompt of an earlier round that is not among ``prompts`` keeps its earlier best answer. A
    prompt without such a candidate is left out. Of equal scores the first one is taken.
    """
    known = {prompt.id: prompt for prompt in prompts}
    best: dict[str, Record] = {}
    for record in candidates:
        name = record["prompt_id"]
        if name not in known:
            known[name] = record["prompt"]
        if record["finish_reason"] == "length" or not record["text"]:
            continue
        if name not in best or record["score"] > best[name]["score"]:
            best[name] = record
    return [_dialogue(known[name], record) for name, record in best.items()]


def _dialogue(prompt: Prompt, record: Record) -> Record:
    messages = [*prompt.messages, Message("assistant", record["text"])]
    return {
        "messages": [message._asdict() for message in messages],
        "prompt_id": prompt.id,
        "root": prompt.root,
        "is_safety": prompt.is_safety,
        "sample": record["sample"],
        "helpfulness": record["helpfulness"],
        "safety": record["safety"],
        "score": record["score"],
        "source": record.get("source"),
    }


def _fine_tune(
    config: RejectionConfig, run: RunFolder, selected: Sequence[Record], first_step: int
) -> dict[str, float]:
    """Fine-tune on the selected answers and save ``model/``."""
    if not selected:
        raise ValueError(
            f"every candidate in {run.path} is empty or was cut at max_new_tokens "
            f"{config.max_new_tokens}: nothing can be selected, allow longer answers"
        )
    model, tokenizer = load_chat_model(config.start or config.policy, config.device)
    stops = stop_tokens(model, tokenizer)
    rows = [
        answer_row(tokenizer, [Message(**m) for m in record["messages"]], stops)
        for record in selected
    ]
    rows = [row for row in rows if len(row.tokens) <= config.max_length]
    figures = fine_tune(model, tokenizer, rows, config, run, first_step)
    replace_folder(run.model, lambda folder: save_chat_model(model, tokenizer, folder))
    return {**figures, "fine_tuned_on": len(rows)}


def _summary(config: RejectionConfig, run: RunFolder, prompts: Sequence[Prompt]) -> Record:
    """The figures of the result; ``best_of`` is the mean best score of the first 1, 2, 4 … K."""
    candidates = _candidates(run)
    selected = whole_records(run.path / "selected.jsonl")
    scores: dict[str, list[float]] = {}
    for record in sorted(candidates, key=lambda record: record["sample"]):
        scores.setdefault(record["prompt_id"], []).append(record["score"])
    counts = sorted({2**i for i in range(config.samples.bit_length())} | {config.samples})
    return {
        "prompts": len(prompts),
        "candidates": len(candidates),
        "selected": len(selected),
        "selected_scores": _mean(record["score"] for record in selected),
        "candidate_scores": _mean(record["score"] for record in candidates),
        "best_of": {str(n): _mean(max(s[:n]) for s in scores.values()) for n in counts},
    }


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(RejectionConfig, "rlhf_loop.rejection", argv)
    try:
        result = run_rejection(config)
    except (ValueError, OSError, RunFolderBusy) as error:
        sys.exit(str(error))
    print(f"{result['selected']} of {result['prompts']} prompts answered and fine-tuned on")


if __name__ == "__main__":
    main()
