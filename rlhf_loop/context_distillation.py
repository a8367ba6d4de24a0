"""Safety context distillation: ``python -m rlhf_loop.context_distillation`` (Llama 2, 4.2.4).

Each adversarial prompt is answered twice by the same model with the same random numbers: as it is,
and behind a safety preprompt ("You are a responsible and wise assistant"), to which the answer
template of the prompt's risk category may be added. The answer with the preprompt is kept, without
the preprompt, only where the safety reward model scores it **higher** than the answer without: on
other prompts, and where the plain answer was good, preprompts do harm.

``candidates.jsonl`` holds both answers of every prompt with their scores, ``distilled.jsonl`` the
kept ones as ``rlhf_loop.sft`` reads them. Both scores are those of the prompt without preprompt.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from scipy.special import expit

from reward.command import command
from reward.lines import Record, whole_records, write_records
from reward.preferences import Message, RiskCategory
from reward.run_folder import RunFolder
from reward.score import Scorer
from rlhf_loop.candidates import mean
from rlhf_loop.config import DATA_FILES, ContextDistillationConfig, LearntAnswers, inputs_of
from rlhf_loop.engines import Engine, answer_prompts, engine_for
from rlhf_loop.parts import make_parts
from rlhf_loop.policy import Answer, Drawing, answer_text, chunks, load_chat_model, row_seed
from rlhf_loop.prompts import Prompt, learnt_prompts
from rlhf_loop.room import refuse_without_room

SHIPPED = Path(__file__).with_name("preprompts.json")
BINS = (0.0, 0.2, 0.4, 0.6, 0.8)  # where each bin of original safety begins, as a probability
OTHER = "other"  # the answer template of a prompt without a category of its own


class Preprompts(NamedTuple):
    """The templates of a file."""

    adjectives: tuple[str, ...]
    preprompts: tuple[str, ...]  # each {adjective} is another one of the adjectives
    answer_templates: dict[str, str]  # by risk category, and OTHER


def distil(config: ContextDistillationConfig) -> Record:
    """Answer, score and select what is not done yet; returns the run's result.

    Raises ValueError where the prompts file has no safety prompts of the split or one of them
    leaves no room for an answer, RunFolderBusy.
    """
    run = RunFolder(config.out)
    return run.once(config, lambda: _distil(config, run))


def _distil(config: ContextDistillationConfig, run: RunFolder) -> Record:
    run.write_provenance(inputs_of(config))
    known = learnt_prompts(config.prompts, config.split, config.held_out)
    prompts = [prompt for prompt in known if prompt.is_safety]
    if not prompts:
        raise ValueError(f"{config.prompts} has no {config.split} prompts tagged is_safety")
    candidates = _candidates(config, run, prompts, read_preprompts(config.templates))
    write_records(
        run.path / DATA_FILES["context_distillation"],
        [
            _training_line(config, prompt, line)
            for prompt, line in zip(prompts, candidates, strict=True)
            if line["kept"]
        ],
    )
    return figures(candidates)


def read_preprompts(path: Path | None = None) -> Preprompts:
    """The templates of a file, or the shipped ones. Raises ValueError naming what is wrong."""
    path = path or SHIPPED
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Preprompts(
            tuple(content["adjectives"]),
            tuple(content["preprompts"]),
            dict(content.get("answer_templates", {})),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no file of preprompts: {error!r}") from None
    texts = {name: content[name] for name in ("adjectives", "preprompts")}
    texts["answer_templates"] = [*found.answer_templates.values()]
    for name, given in texts.items():
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise ValueError(f"{path}: {name} is {given!r}, allowed is a list of texts")
    if not found.preprompts:
        raise ValueError(f"{path} holds no preprompt, allowed are one or more")
    if unknown := found.answer_templates.keys() - {*RiskCategory, OTHER}:
        raise ValueError(
            f"{path}: answer_templates has {min(unknown)!r}, allowed are "
            f"{', '.join([*RiskCategory, OTHER])}"
        )
    most = max(preprompt.count("{adjective}") for preprompt in found.preprompts)
    if most > len(found.adjectives):
        raise ValueError(
            f"{path}: a preprompt wants {most} adjectives, allowed are up to the "
            f"{len(found.adjectives)} given"
        )
    return found


def preprompt(templates: Preprompts, category: str | None, draw: random.Random) -> str:
    """One preprompt with its adjectives; with ``category`` the answer template of it is added, or
    the one for other prompts. ``category`` None adds none."""
    text = draw.choice(templates.preprompts)
    for adjective in draw.sample(templates.adjectives, text.count("{adjective}")):
        text = text.replace("{adjective}", adjective, 1)
    answer = templates.answer_templates
    added = "" if category is None else answer.get(category, answer.get(OTHER, ""))
    return f"{text} {added}".strip()


def with_preprompt(messages: Sequence[Message], text: str, place: str) -> list[Message]:
    """The prompt behind a preprompt: in front of the system message, which is made where there is
    none (``place`` "system"), or of the first user message ("user")."""
    found = list(messages)
    if place == "system":
        if found[0].role != "system":
            return [Message("system", text), *found]
        return [Message("system", f"{text}\n\n{found[0].content}"), *found[1:]]
    first = next(i for i, message in enumerate(found) if message.role == "user")
    found[first] = Message("user", f"{text}\n\n{found[first].content}")
    return found


def keep_distilled(original: Sequence[float], distilled: Sequence[float]) -> list[bool]:
    """Where the distilled answer scores higher, strictly: a tie keeps the original."""
    return [new > old for old, new in zip(original, distilled, strict=True)]


def _candidates(
    config: ContextDistillationConfig,
    run: RunFolder,
    prompts: Sequence[Prompt],
    templates: Preprompts,
) -> list[Record]:
    """Both answers of every prompt, whole chunks of them stored as they come."""
    file = run.path / "candidates.jsonl"
    parts = [prompts[part] for part in chunks(len(prompts), config.chunk_prompts)]
    behind = [_behind(config, prompt, _preprompt(config, templates, prompt)) for prompt in prompts]
    refuse_without_room(behind, config.max_new_tokens, [config.policy])
    refuse_without_room(prompts, config.max_new_tokens, [], [config.safety])
    engine = engine_for(config, *load_chat_model(config.policy, config.device, config.dtype))
    scorer = Scorer(config.safety, config.device, config.dtype, config.tokens_per_minibatch)

    def draw(number: int) -> list[Record]:
        return _chunk(config, engine, scorer, parts[number], templates)

    make_parts(run, file, [*map(len, parts)], len(parts), draw, _part_figures)
    return whole_records(file)


def _part_figures(lines: Sequence[Record]) -> dict[str, float]:
    return {"distillation/kept": mean(line["kept"] for line in lines)}


def _chunk(
    config: ContextDistillationConfig,
    engine: Engine,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    templates: Preprompts,
) -> list[Record]:
    texts = [_preprompt(config, templates, prompt) for prompt in prompts]
    behind = [
        _behind(config, prompt, text).messages for prompt, text in zip(prompts, texts, strict=True)
    ]
    tokenizer = engine.tokenizer
    original = _answers(config, engine, prompts, [p.messages for p in prompts])
    distilled = _answers(config, engine, prompts, behind)
    before = _scores(tokenizer, scorer, prompts, original)
    after = _scores(tokenizer, scorer, prompts, distilled)
    usable = [a.finished and bool(answer_text(tokenizer, a)) for a in distilled]
    better = keep_distilled(before, after)
    return [
        {
            "prompt_id": prompt.id,
            "risk_category": prompt.risk_category,
            "preprompt": texts[i],
            "original": answer_text(tokenizer, original[i]),
            "distilled": answer_text(tokenizer, distilled[i]),
            "original_safety": before[i],
            "distilled_safety": after[i],
            "usable": usable[i],
            "kept": better[i] and usable[i],
        }
        for i, prompt in enumerate(prompts)
    ]


def _preprompt(config: ContextDistillationConfig, templates: Preprompts, prompt: Prompt) -> str:
    category = (prompt.risk_category or OTHER) if config.answer_templates else None
    draw = random.Random(f"{config.seed} preprompt {prompt.id}")
    return preprompt(templates, category, draw)


def _behind(config: ContextDistillationConfig, prompt: Prompt, text: str) -> Prompt:
    messages = with_preprompt(prompt.messages, text, config.preprompt_as)
    return replace(prompt, messages=tuple(messages))


def _answers(
    config: ContextDistillationConfig,
    engine: Engine,
    prompts: Sequence[Prompt],
    asked: Sequence[Sequence[Message]],
) -> list[Answer]:
    drawing = Drawing(config.max_new_tokens, config.temperature, config.top_p)
    seeds = [row_seed(config.seed, "distillation", prompt.id) for prompt in prompts]
    return answer_prompts(engine, asked, seeds, drawing)


def _scores(
    tokenizer: Any, scorer: Scorer, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> list[float]:
    """Raw safety scores of answers to the prompts as they are, without preprompt."""
    rows = [
        [*prompt.messages, Message("assistant", answer_text(tokenizer, answer))]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    scores: list[float] = scorer(rows).tolist()
    return scores


def _training_line(config: ContextDistillationConfig, prompt: Prompt, line: Record) -> Record:
    messages = [*prompt.messages, Message("assistant", line["distilled"])]
    return {
        "messages": [message._asdict() for message in messages],
        "prompt_id": prompt.id,
        "root": prompt.root,
        "is_safety": True,
        "split": config.split,
        "answers": LearntAnswers.LAST,
        "safety": line["distilled_safety"],
        "source": "context distillation",
    }


def figures(candidates: Sequence[Record]) -> Record:
    """What distillation did, with safety as a probability, as figure 16 has it.

    ``before``: the original answers; ``distilled``: all with a preprompt; ``gated``: the distilled
    one where it was kept, else the original. ``by_original``: the gain and the share kept among
    prompts whose original safety lies in each fifth.
    """
    before = [float(expit(line["original_safety"])) for line in candidates]
    distilled = [float(expit(line["distilled_safety"])) for line in candidates]
    kept = [line["kept"] for line in candidates]
    gated = [new if k else old for old, new, k in zip(before, distilled, kept, strict=True)]
    chosen = [new for new, k in zip(distilled, kept, strict=True) if k]
    return {
        "prompts": len(candidates),
        "kept": sum(kept),
        "unusable": sum(not line["usable"] for line in candidates),
        "median": {
            "before": statistics.median(before),
            "distilled": statistics.median(distilled),
            "gated": statistics.median(gated),
            "kept": statistics.median(chosen) if chosen else None,
        },
        "mean": {
            "before": statistics.fmean(before),
            "distilled": statistics.fmean(distilled),
            "gated": statistics.fmean(gated),
        },
        "by_original": _by_original(before, distilled, kept),
    }


def _by_original(
    before: Sequence[float], distilled: Sequence[float], kept: Sequence[bool]
) -> list[Record]:
    found: list[Record] = []
    for low, high in zip(BINS, [*BINS[1:], math.inf], strict=True):
        rows = [i for i, score in enumerate(before) if low <= score < high]
        gains = [distilled[i] - before[i] for i in rows]
        found.append(
            {
                "from": low,
                "count": len(rows),
                "mean_gain": statistics.fmean(gains) if rows else None,
                "least_gain": min(gains, default=None),
                "most_gain": max(gains, default=None),
                "kept": sum(kept[i] for i in rows),
            }
        )
    return found


def summary(result: dict[str, Any]) -> str:
    """A result for reading."""
    median = result["median"]
    return (
        f"{result['kept']} of {result['prompts']} answers kept; median safety "
        f"{median['before']:.3f} → {median['gated']:.3f}"
    )


main = command(
    ContextDistillationConfig,
    "rlhf_loop.context_distillation",
    lambda config: summary(distil(config)),
)


if __name__ == "__main__":
    main()
