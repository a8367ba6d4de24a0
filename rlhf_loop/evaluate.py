"""New chat model against old on the same prompts: ``python -m rlhf_loop.evaluate``.

Both answer every test prompt with the same random numbers. What the answers are measured by:

* both reward models of the round. The new model was trained on them, so they show that training
  worked and not that people agree;
* an **independent** reward model, trained on imported data only (Llama 2, section 3.4.1): where it
  falls while the others rise, the reward is being over-optimised;
* a chat model as judge, each pair in both orders, where one is configured;
* refusals of helpfulness and of borderline prompts, length, the divergence from the old model, and
  Self-BLEU of several answers to the same prompt;
* accuracy on local task files: what tuning may cost.

``responses.jsonl`` holds the answers, ``result.json`` the figures, each paired and with its
interval, and the verdict of ``release_gate`` on them. What is drawn is stored as it comes, some
answers at a time: a run that was killed goes on with the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from reward.command import command
from reward.lines import Record, whole_records, write_records
from reward.measures.resampling import Draws
from reward.minibatches import minibatches
from reward.model import load_tokenizer
from reward.preferences import Message
from reward.run_folder import RunFolder
from reward.score import Scorer
from reward.settings import from_mapping
from rlhf_loop.config import EvaluateConfig, GateConfig, inputs_of
from rlhf_loop.engines import Engine, answer_prompts, engine_for
from rlhf_loop.learning.likelihood import divergences, reading, tail_row
from rlhf_loop.measures.asking import ChatJudge, ask_all, refusing_question
from rlhf_loop.measures.diversity import self_bleu
from rlhf_loop.measures.paired_figures import compare, flat, paired
from rlhf_loop.measures.refusals import Reply, reply_of
from rlhf_loop.measures.release_gate import release_gate
from rlhf_loop.measures.side_by_side import judge_answers
from rlhf_loop.parts import make_parts
from rlhf_loop.policy import (
    Drawing,
    answer_text,
    chunks,
    load_chat_model,
    other_word,
    prompt_tokens,
    row_seed,
)
from rlhf_loop.prompts import Prompt, read_prompts
from rlhf_loop.rollout import RewardModels, sample_and_score
from rlhf_loop.room import refuse_without_room
from rlhf_loop.task_accuracy import picked_options, read_tasks, task_figures

SIDES = ("before", "after")
PART_ANSWERS = 128  # drawn, scored and stored together; the unit of resuming


def evaluate(config: EvaluateConfig) -> Record:
    """Compare the two models and return the run's result.

    Raises ValueError where the prompts file has none of the split or one of them leaves no room for
    an answer, JudgeRefused where a configured judge does not answer, RunFolderBusy when another
    process runs in the same folder.
    """
    run = RunFolder(config.out)
    return run.once(config, lambda: _evaluate(config, run))


def _evaluate(config: EvaluateConfig, run: RunFolder) -> Record:
    run.write_provenance(inputs_of(config))
    prompts = _prompts(config)
    judges = (config.helpfulness, config.safety, config.independent)
    refuse_without_room(
        prompts, config.max_new_tokens, [config.against, config.policy], filter(None, judges)
    )
    chosen = evenly([p for p in prompts if not p.is_safety], config.diversity_prompts)
    many = config.diversity_samples
    steps = _Steps(run, 2 * len(_parts(prompts)) + 2 * len(_parts(chosen, many)) + 4)
    old, new = (_answered(config, steps, side, prompts) for side in SIDES)
    _mark_refusals(config, run, prompts, old, new)
    if config.independent is not None:
        _score_independently(config, config.independent, prompts, old, new)
    result = {**compare(prompts, old, new), "kl": _mean_kl(config, prompts, new)}
    steps.end()
    result |= _diversity(config, steps, chosen)
    result |= _judged(config, run, prompts, old, new)
    steps.end()
    result |= _tasks(config, run)
    steps.end()
    thresholds = from_mapping(GateConfig, config.gate)
    result["gate"] = release_gate(result, thresholds)._asdict()
    records = _responses(prompts, old, new)
    write_records(run.path / "responses.jsonl", records)
    steps.end(**flat(result, "eval"))
    return {**result, "samples": records[: config.shown]}


class _Steps:
    """The steps of an evaluation in the run's metrics, as they end."""

    def __init__(self, run: RunFolder, total: int) -> None:
        self.run, self.total, self.ended = run, total, 0

    def end(self, **figures: float | None) -> None:
        self.ended += 1
        self.run.log_metrics(self.ended, self.total, **figures)

    def parts(
        self,
        name: str,
        parts: Sequence[Sequence[Prompt]],
        make: Callable[[Sequence[Prompt]], list[Record]],
    ) -> list[Record]:
        """The records of a file, one to a prompt; each part that stands there is a step too."""
        file, sizes = self.run.path / name, [*map(len, parts)]
        make_parts(
            self.run, file, sizes, self.total, lambda i: make(parts[i]), lambda _: {}, self.ended
        )
        self.ended += len(parts)
        return whole_records(file)


def _parts(prompts: Sequence[Prompt], answers: int = 1) -> list[Sequence[Prompt]]:
    """Prompts whose answers, so many to each, are drawn and stored together."""
    together = max(PART_ANSWERS // answers, 1)
    return [prompts[part] for part in chunks(len(prompts), together)]


def _prompts(config: EvaluateConfig) -> list[Prompt]:
    """The prompts of the split of all files; one that two files have counts once, as the first
    file tags it. Raises ValueError for an id of two different prompts."""
    found: dict[str, tuple[Path, Prompt]] = {}
    for path in (config.prompts, *config.further_prompts):
        for prompt in read_prompts(path, config.split):
            first, known = found.setdefault(prompt.id, (path, prompt))
            if known.messages != prompt.messages:
                raise ValueError(
                    f"the id {prompt.id!r} stands in {first} and in {path} for prompts that "
                    "differ; allowed is one prompt for each id"
                )
    if not found:
        raise ValueError(f"{config.prompts} has no {config.split} prompts to evaluate on")
    return [prompt for _, prompt in found.values()]


def _folder(config: EvaluateConfig, side: str) -> Path:
    return config.against if side == "before" else config.policy


def _answered(
    config: EvaluateConfig, steps: _Steps, side: str, prompts: Sequence[Prompt]
) -> list[Record]:
    """One answer to each prompt, scored by the round's reward models."""

    @cache
    def loaded() -> tuple[Engine, RewardModels]:
        rewards = RewardModels(config.helpfulness, config.safety, config.threshold, config)
        chat_model = load_chat_model(_folder(config, side), config.device, config.dtype)
        return engine_for(config, *chat_model), rewards

    def make(asked: Sequence[Prompt]) -> list[Record]:
        seeds = [row_seed(config.seed, "evaluate", prompt.id) for prompt in asked]
        answers, texts, scores = sample_and_score(*loaded(), asked, seeds, _drawing(config))
        return [
            {
                "text": texts[i],
                "finish_reason": "stop" if answer.finished else "length",
                "length_tokens": len(answer.tokens),
                "helpfulness": scores.helpfulness[i].item(),
                "safety": scores.safety[i].item(),
                "combined": scores.combined[i].item(),
                "tokens": answer.tokens,
            }
            for i, answer in enumerate(answers)
        ]

    return steps.parts(f"answers-{side}.jsonl", _parts(prompts), make)


def _drawing(config: EvaluateConfig) -> Drawing:
    return Drawing(config.max_new_tokens, config.temperature, config.top_p)


def _mark_refusals(
    config: EvaluateConfig,
    run: RunFolder,
    prompts: Sequence[Prompt],
    old: Sequence[Record],
    new: Sequence[Record],
) -> None:
    """Say of every answer whether it refuses: by rules, or by the judge where it is understood."""
    for line in (*old, *new):
        line["refused"] = reply_of(line["text"]) is Reply.REFUSED
    judge = _judge(config)
    if config.refusals == "rules" or judge is None:
        return
    lines = {
        f"{side} {prompt.id}": (prompt, line)
        for side, answers in zip(SIDES, (old, new), strict=True)
        for prompt, line in zip(prompts, answers, strict=True)
    }
    questions = [
        refusing_question(key, prompt.messages[-1].content, line["text"])
        for key, (prompt, line) in lines.items()
    ]
    for key, verdict in ask_all(judge, questions, run.path / "refusals.jsonl").items():
        if verdict is not None:
            lines[key][1]["refused"] = verdict == Reply.REFUSED


def _judge(config: EvaluateConfig) -> ChatJudge | None:
    if config.judge_address is None:
        return None
    return ChatJudge(config.judge_address, config.judge_model)


def _score_independently(
    config: EvaluateConfig,
    folder: Path,
    prompts: Sequence[Prompt],
    old: Sequence[Record],
    new: Sequence[Record],
) -> None:
    scorer = Scorer(folder, config.device, config.dtype, config.tokens_per_minibatch)
    for lines in (old, new):
        rows = [
            [*prompt.messages, Message("assistant", line["text"])]
            for prompt, line in zip(prompts, lines, strict=True)
        ]
        for line, score in zip(lines, scorer(rows).tolist(), strict=True):
            line["independent"] = score


def _mean_kl(
    config: EvaluateConfig, prompts: Sequence[Prompt], answers: Sequence[Record]
) -> float | None:
    """Mean over answers of KL(new ‖ old), nats: the exact divergence of every next token, summed.

    Unbiased for the whole-answer divergence where answers are drawn at temperature 1 and top-p 1.
    None where the models have other tokens: those of one mean nothing to the other.
    """
    tokenizer = load_tokenizer(config.policy)
    if other_word(tokenizer, load_tokenizer(config.against)) is not None:
        return None
    new, _ = load_chat_model(config.policy, config.device, config.dtype)
    old, _ = load_chat_model(config.against, config.device, config.dtype)
    rows = [
        tail_row(prompt_tokens(tokenizer, prompt.messages), answer["tokens"])
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer["tokens"]
    ]
    total, inputs = 0.0, [[row.inputs] for row in rows]
    with reading(new) as mine, reading(old) as its:
        shared = mine.shares and its.shares
        for chosen, _ in minibatches(inputs, config.tokens_per_minibatch, shared):
            found = divergences(mine, its, [rows[i] for i in chosen])  # (K,)
            total += found.double().sum().item()
    return total / len(prompts)


def _diversity(config: EvaluateConfig, steps: _Steps, chosen: Sequence[Prompt]) -> Record:
    """Self-BLEU of several answers to each of these prompts, paired by prompt; nothing where there
    are none."""
    if not chosen:
        return {}
    texts = {side: _several(config, steps, side, chosen) for side in SIDES}
    alike = {side: [self_bleu(answers) for answers in texts[side]] for side in SIDES}
    return {
        "self_bleu": {
            **paired(alike["before"], alike["after"], [prompt.root for prompt in chosen]),
            "prompts": len(chosen),
            "samples": config.diversity_samples,
        }
    }


def _several(
    config: EvaluateConfig, steps: _Steps, side: str, prompts: Sequence[Prompt]
) -> list[list[str]]:
    """Several answers to each prompt, those to one prompt beside each other."""
    many = config.diversity_samples

    @cache
    def engine() -> Engine:
        chat_model = load_chat_model(_folder(config, side), config.device, config.dtype)
        return engine_for(config, *chat_model)

    def make(part: Sequence[Prompt]) -> list[Record]:
        asked = [(prompt, k) for prompt in part for k in range(many)]
        seeds = [row_seed(config.seed, "diversity", prompt.id, k) for prompt, k in asked]
        answers = answer_prompts(
            engine(), [prompt.messages for prompt, _ in asked], seeds, _drawing(config)
        )
        texts = [answer_text(engine().tokenizer, answer) for answer in answers]
        return [
            {"prompt_id": prompt.id, "texts": texts[i * many : (i + 1) * many]}
            for i, prompt in enumerate(part)
        ]

    lines = steps.parts(f"several-{side}.jsonl", _parts(prompts, many), make)
    return [line["texts"] for line in lines]


def evenly(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many of the prompts, from all parts of their order."""
    wanted = min(most, len(prompts))
    return [prompts[number * len(prompts) // wanted] for number in range(wanted)]


def _judged(
    config: EvaluateConfig,
    run: RunFolder,
    prompts: Sequence[Prompt],
    old: Sequence[Record],
    new: Sequence[Record],
) -> Record:
    """What the judge says of some of the prompts; nothing without one."""
    judge = _judge(config)
    if judge is None:
        return {}
    asked = {prompt.id for prompt in evenly(prompts, config.judge_prompts)}
    rows = [i for i, prompt in enumerate(prompts) if prompt.id in asked]
    found = judge_answers(
        judge,
        [prompts[i] for i in rows],
        [old[i]["text"] for i in rows],
        [new[i]["text"] for i in rows],
        run.path / "judge",
        Draws(config.resamples, config.seed),
    )
    return {"judge": found}


def _tasks(config: EvaluateConfig, run: RunFolder) -> Record:
    """Accuracy on the task files before and after; nothing without one."""
    tasks = read_tasks(config.tasks)
    if not tasks:
        return {}
    picked = {
        side: picked_options(run, side, _folder(config, side), tasks, config, config.task_chat)
        for side in SIDES
    }
    draws = Draws(config.resamples, config.seed)
    return {"tasks": task_figures(picked["after"], picked["before"], draws)}


def _responses(
    prompts: Sequence[Prompt], old: Sequence[Record], new: Sequence[Record]
) -> list[Record]:
    return [
        {
            "prompt_id": prompt.id,
            "is_safety": prompt.is_safety,
            "kind": prompt.kind,
            "request": prompt.messages[-1].content,
            "before": {name: value for name, value in before.items() if name != "tokens"},
            "after": {name: value for name, value in after.items() if name != "tokens"},
        }
        for prompt, before, after in zip(prompts, old, new, strict=True)
    ]


def summary(result: dict[str, Any]) -> str:
    """A result for reading."""
    lines = [
        f"{score}: {found['before']:.3f} → {found['after']:.3f}, win rate {found['win_rate']:.2f}"
        for score in ("helpfulness", "safety", "combined")
        if (found := result["all"][score])
    ]
    gate = result["gate"]
    lines.append("the gate passes" if gate["passes"] else "the gate does not pass:")
    return "\n".join([*lines, *gate["reasons"]])


main = command(EvaluateConfig, "rlhf_loop.evaluate", lambda config: summary(evaluate(config)))


if __name__ == "__main__":
    main()
