"""Rejection sampling: ``python -m rlhf_loop.rejection`` (Llama 2, section 3.2.3).

K answers to every train prompt, each scored by both reward models; the best one by the combined
score is fine-tuned on. The best answers of all earlier rounds compete too, scored again by today's
reward models, since scores of different reward models cannot be compared; without the pool (V1 to
V3 of the paper) only this round's answers do. ``candidates.jsonl`` holds every answer with its
scores, ``selected.jsonl`` the best ones as dialogues, ``model/`` the fine-tuned chat model.
Answers of earlier rounds and demonstrations whose dialogues are validated or tested on today, by
the prompts file or by one ``held_out``, are left out and counted.

An answer that was cut at the limit is never selected: fine-tuning on it would teach an end where
there is none. Which score chooses is not in the paper; here it is the one that PPO learns from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from reward import ranks
from reward.command import command
from reward.lines import Record, whole_records, write_records
from reward.model import context_tokens
from reward.preferences import Message, RecordReader, read_json_lines
from reward.run_folder import RunFolder
from rlhf_loop.candidates import draw_candidates, is_usable, mean, part_figures, selectable_scores
from rlhf_loop.config import LearntAnswers, RejectionConfig, inputs_of
from rlhf_loop.parts import make_parts
from rlhf_loop.policy import Drawing, chunks, load_chat_model, stop_tokens
from rlhf_loop.prompts import (
    Prompt,
    PromptSplit,
    held_out_roots,
    is_held_out,
    learnt_prompts,
    left_out_words,
)
from rlhf_loop.rollout import RewardModels
from rlhf_loop.room import refuse_without_room
from rlhf_loop.sft import answer_row, fine_tune, read_answers, within_length
from rlhf_loop.temperature import expected_maximum


def run_rejection(config: RejectionConfig) -> Record:
    """Sample, select and fine-tune what is not done yet; returns the run's result.

    Raises ValueError where the prompts file has no train prompts, one of them leaves no room for an
    answer or no answer can be selected, RunFolderBusy when another process runs in the same folder.
    """
    return ranks.once(config.out, config, config.device, partial(_run, config))


def _run(config: RejectionConfig, run: RunFolder, device: torch.device) -> Record:
    run.write_provenance(inputs_of(config))
    prompts = learnt_prompts(config.prompts, PromptSplit.TRAIN, config.held_out)
    if not prompts:
        raise ValueError(f"{config.prompts} has no train prompts, and sampling needs some")
    earlier, left_out = _earlier_answers(config, prompts)
    selected_file = run.path / "selected.jsonl"
    if not ranks.told(selected_file.exists()):
        best = _select(config, run, prompts, earlier, str(device))
        if ranks.is_first():
            write_records(selected_file, best)
        ranks.wait()
    selected = whole_records(selected_file)
    figures = _fine_tune(config, run, selected, len(_part_sizes(config, prompts)), device)
    figures["held_out"] += left_out
    return {"model": "model", **_summary(config, run, prompts, selected), **figures}


# --- sampling -------------------------------------------------------------------------------------


def _select(
    config: RejectionConfig,
    run: RunFolder,
    prompts: Sequence[Prompt],
    earlier: Mapping[Path, Sequence[tuple[Prompt, str]]],
    device: str,
) -> list[Record]:
    judges = (config.helpfulness, config.safety)
    refuse_without_room(prompts, config.max_new_tokens, [config.policy], judges)
    rewards = RewardModels(*judges, config.threshold, config)
    # Before sampling, which takes hours: what cannot be scored of them ends the run.
    scored = _earlier_candidates(config, earlier, rewards)
    _sample(config, run, prompts, rewards, device)
    return select_best(prompts, [*_candidates(run), *scored])


def _parts(config: RejectionConfig, prompts: Sequence[Prompt]) -> Iterable[slice]:
    return chunks(len(prompts), config.chunk_prompts)


def _part_sizes(config: RejectionConfig, prompts: Sequence[Prompt]) -> list[int]:
    """How many answers each chunk of prompts has."""
    return [len(prompts[part]) * config.samples for part in _parts(config, prompts)]


def _candidates(run: RunFolder) -> list[Record]:
    return whole_records(run.path / "candidates.jsonl")


def _sample(
    config: RejectionConfig,
    run: RunFolder,
    prompts: Sequence[Prompt],
    rewards: RewardModels,
    device: str,
) -> None:
    """Append the candidates of the chunks of prompts that are not stored yet."""
    model, tokenizer = load_chat_model(config.policy, device, config.dtype)
    drawing = Drawing(config.max_new_tokens, config.temperature, config.top_p)
    parts, sizes = list(_parts(config, prompts)), _part_sizes(config, prompts)
    total = len(sizes) + config.epochs * math.ceil(len(prompts) / config.batch)

    def draw(number: int) -> list[Record]:
        return draw_candidates(
            model, tokenizer, rewards, prompts[parts[number]], config.samples, config.seed,
            "rejection", drawing, config,
        )  # fmt: skip

    make_parts(run, run.path / "candidates.jsonl", sizes, total, draw, part_figures)


# --- the pool of earlier rounds -------------------------------------------------------------------


def _earlier_answers(
    config: RejectionConfig, prompts: Sequence[Prompt]
) -> tuple[dict[Path, list[tuple[Prompt, str]]], int]:
    """The best answers of earlier rounds by file; and how many were left out because today's
    files validate or test on their dialogues.

    An answer that stayed the best for several rounds stands in the file of each, and counts in the
    first.
    """
    known = {prompt.messages: prompt for prompt in prompts}
    held_out = held_out_roots(config.prompts, *config.held_out)
    found: dict[Path, list[tuple[Prompt, str]]] = {}
    seen: set[tuple[tuple[Message, ...], str]] = set()
    left_out = 0
    for path in config.earlier:
        found[path] = []
        for number, record in read_json_lines(path):
            prompt, text = _answered(RecordReader(record, path, number), known)
            if (prompt.messages, text) in seen:
                continue
            seen.add((prompt.messages, text))
            if is_held_out(prompt.messages, prompt.root, held_out):
                left_out += 1
            else:
                found[path].append((prompt, text))
    return found, left_out


def _earlier_candidates(
    config: RejectionConfig,
    earlier: Mapping[Path, Sequence[tuple[Prompt, str]]],
    rewards: RewardModels,
) -> list[Record]:
    """The best answers of earlier rounds, scored by this round's reward models."""
    records: list[Record] = []
    for path, answered in earlier.items():
        for part in chunks(len(answered), config.chunk_prompts):
            records += [
                {
                    "prompt_id": prompt.id,
                    "prompt": prompt,
                    "sample": None,
                    "text": text,
                    "finish_reason": "stop",
                    "helpfulness": helpfulness,
                    "safety": safety,
                    "score": score,
                    "source": str(path),
                }
                for (prompt, text), (helpfulness, safety, score) in zip(
                    answered[part], _scores(rewards, answered[part]), strict=True
                )
            ]
    return records


def _scores(rewards: RewardModels, answered: Sequence[tuple[Prompt, str]]) -> list[list[float]]:
    """Helpfulness, safety and combined score of each answer; every rank does its part of them."""
    own = ranks.own_rows(len(answered))
    part = answered[own.start : own.stop]
    scores = rewards.score([prompt for prompt, _ in part], [text for _, text in part])
    return ranks.joined_lists(torch.stack(scores, dim=1).tolist())


def _answered(line: RecordReader, known: dict[tuple[Message, ...], Prompt]) -> tuple[Prompt, str]:
    """The prompt of an earlier round's line, as it is tagged today where it is asked today."""
    *asked, answer = line.messages("messages")
    if not asked or answer.role != "assistant":
        raise line.refuse("messages", line.get("messages"), "a prompt and an assistant's answer")
    messages = tuple(asked)
    earlier = Prompt(
        line.text("prompt_id"), line.text("root"), messages, line.flag("is_safety") is True
    )
    return known.get(messages, earlier), answer.content


def select_best(prompts: Sequence[Prompt], candidates: Sequence[Record]) -> list[Record]:
    """The best usable candidate of each prompt, as a dialogue to fine-tune on.

    A prompt of an earlier round that is not among ``prompts`` keeps its earlier best answer: what
    was learnt once is not forgotten. A prompt without a usable candidate is left out. Of equal
    scores the first one is taken.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    best: dict[tuple[Message, ...], tuple[Prompt, Record]] = {}
    for record in candidates:
        prompt = record.get("prompt") or by_id[record["prompt_id"]]
        held = best.get(prompt.messages)
        if is_usable(record) and (held is None or record["score"] > held[1]["score"]):
            best[prompt.messages] = (prompt, record)
    return [_dialogue(prompt, record) for prompt, record in best.values()]


def _dialogue(prompt: Prompt, record: Record) -> Record:
    messages = [*prompt.messages, Message("assistant", record["text"])]
    return {
        "messages": [message._asdict() for message in messages],
        "prompt_id": prompt.id,
        "root": prompt.root,
        "is_safety": prompt.is_safety,
        "answers": LearntAnswers.LAST,
        "sample": record["sample"],
        "helpfulness": record["helpfulness"],
        "safety": record["safety"],
        "score": record["score"],
        "source": record.get("source"),
    }


# --- fine-tuning ----------------------------------------------------------------------------------


def _fine_tune(
    config: RejectionConfig,
    run: RunFolder,
    selected: Sequence[Record],
    first_step: int,
    device: torch.device,
) -> dict[str, float]:
    """Fine-tune on the selected answers and the demonstrations, and save ``model/``."""
    if not selected:
        raise ValueError(
            f"every candidate in {run.path} is empty or was cut at max_new_tokens "
            f"{config.max_new_tokens}: nothing can be selected, allow longer answers"
        )
    model, tokenizer = load_chat_model(config.start or config.policy, str(device))
    stops = stop_tokens(model, tokenizer)
    dialogues = ([Message(**m) for m in record["messages"]] for record in selected)
    drawn = [answer_row(tokenizer, messages, stops) for messages in dialogues]
    held_out = held_out_roots(config.prompts, *config.held_out)
    written, left_out = read_answers(config.sft_data or (), tokenizer, stops, held_out=held_out)
    context = context_tokens(model)
    kept = [within_length(rows, config.max_tokens, context) for rows in (drawn, written)]
    rows = [row._replace(dialogue="") for part in kept for row in part]
    figures = fine_tune(model, tokenizer, rows, config, run, device, first_step)
    return {
        **figures,
        "fine_tuned_on": len(rows),
        "sft_answers": len(kept[1]),
        "sft_share": len(kept[1]) / len(rows),
        "too_long": len(drawn) + len(written) - len(rows),
        "held_out": left_out,
    }


def _summary(
    config: RejectionConfig, run: RunFolder, prompts: Sequence[Prompt], selected: Sequence[Record]
) -> Record:
    """The figures of the result; ``best_of`` is the expected best score of 1, 2, 4 … K answers, of
    which one that cannot be selected counts as the prompt's worst."""
    candidates = _candidates(run)
    scores: dict[str, list[float]] = {}
    for record, score in zip(candidates, selectable_scores(candidates), strict=True):
        scores.setdefault(record["prompt_id"], []).append(score)
    counts = sorted({2**i for i in range(config.samples.bit_length())} | {config.samples})
    return {
        "prompts": len(prompts),
        "candidates": len(candidates),
        "temperature": config.temperature,
        "ranks": ranks.count(),
        "selected": len(selected),
        "selected_earlier": sum(record["source"] is not None for record in selected),
        "selected_scores": mean(record["score"] for record in selected),
        "candidate_scores": mean(record["score"] for record in candidates),
        "best_of": {str(n): mean(expected_maximum(s, n) for s in scores.values()) for n in counts},
    }


def summary(result: Record) -> str:
    """A result for reading; of a rank that has none, another one tells."""
    if not result:
        return ""
    left_out = left_out_words(result.get("held_out", 0), "dialogues")
    told = f"{result['selected']} of {result['prompts']} prompts answered and fine-tuned on"
    return f"{told}{left_out}"


def _run_and_tell(config: RejectionConfig) -> str:
    with ranks.explaining(config.out, config):
        return summary(run_rejection(config))


main = command(RejectionConfig, "rlhf_loop.rejection", _run_and_tell, has_ranks=True)


if __name__ == "__main__":
    main()
