"""What tuning may cost: accuracy on local task files, ``python -m rlhf_loop.task_accuracy``.

Every option is scored by its log-probability as the continuation of the query; ``acc`` picks the
most likely option, ``acc_norm`` the most likely one for each character of it. Both, and how text
becomes tokens, are those of lm-evaluation-harness 0.4.13, against which the figures were held
(EXPERIMENTS.md). With ``--against`` both models are measured and compared document by document.
The options of a question share it: each of its tokens goes through the model once.

Left out: few-shot prompting (a samples file of the harness brings its own), and tasks that generate
text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from reward.command import command
from reward.data import in_template
from reward.lines import Record, whole_records, write_records
from reward.measures.resampling import Draws, share_interval
from reward.minibatches import minibatches
from reward.model import context_tokens
from reward.preferences import Message
from reward.run_folder import RunFolder
from rlhf_loop.config import Scoring, TaskAccuracyConfig, inputs_of
from rlhf_loop.learning.likelihood import TokenRow, reading, row_logprobs
from rlhf_loop.measures.paired_figures import paired_shares
from rlhf_loop.measures.task_files import Document, read_task
from rlhf_loop.policy import load_chat_model

FIGURES = ("acc", "acc_norm")
SHOWN = 60  # characters of a query that name it


class Picked(NamedTuple):
    """One document as a model answered it."""

    logprobs: list[float]  # of each option, nats
    acc: bool  # the most likely option is the right one
    acc_norm: bool  # so is the most likely one by character


class TokenPair(NamedTuple):
    """A query and an option as tokens."""

    query: list[int]
    option: list[int]


def task_accuracy(config: TaskAccuracyConfig) -> Record:
    """Measure what is not measured yet; returns the run's result.

    Raises ValueError for task files of the same name, RunFolderBusy.
    """
    run = RunFolder(config.out)
    return run.once(config, lambda: _task_accuracy(config, run))


def _task_accuracy(config: TaskAccuracyConfig, run: RunFolder) -> Record:
    run.write_provenance(inputs_of(config))
    tasks = read_tasks(config.tasks, config.most)
    run.rewind_metrics(-1)
    draws = Draws(config.resamples, config.seed)
    after = picked_options(run, "after", config.model, tasks, config, config.task_chat)
    run.log_metrics(1, 2)
    before = None
    if config.against is not None:
        before = picked_options(run, "before", config.against, tasks, config, config.task_chat)
    run.log_metrics(2, 2)
    return {"tasks": task_figures(after, before, draws)}


def read_tasks(paths: Sequence[Path], most: int | None = None) -> dict[str, list[Document]]:
    """The documents of task files by the files' names. Raises ValueError for a name used twice."""
    tasks: dict[str, list[Document]] = {}
    for path in paths:
        if path.stem in tasks:
            raise ValueError(f"two task files have the name {path.stem!r}, allowed is one")
        tasks[path.stem] = read_task(path, most)
    return tasks


def picked_options(
    run: RunFolder,
    side: str,
    folder: Path,
    tasks: dict[str, list[Document]],
    compute: Scoring,
    chat: bool,
) -> dict[str, list[Picked]]:
    """What a chat model picks in every task; a task that ``run`` holds is not measured again."""
    model, tokenizer, picked = None, None, {}
    for name, documents in tasks.items():
        file = run.path / f"task-{side}-{name}.jsonl"
        if not file.exists():
            if model is None:
                model, tokenizer = load_chat_model(folder, compute.device, compute.dtype)
            try:
                found = pick_options(model, tokenizer, documents, compute, chat)
            except ValueError as error:
                raise ValueError(f"task {name!r}: {error}") from None
            run.begin()
            write_records(file, [item._asdict() for item in found])
        picked[name] = [Picked(**record) for record in whole_records(file)]
    return picked


def pick_options(
    model: Any, tokenizer: Any, documents: Sequence[Document], compute: Scoring, chat: bool
) -> list[Picked]:
    """Score every option of every document. Equal calls give equal bits on the CPU."""
    pairs = [
        option_tokens(tokenizer, *texts)
        for document in documents
        for texts in _rendered(tokenizer, document, chat)
    ]
    logprobs = option_logprobs(model, pairs, compute.tokens_per_minibatch)
    picked, start = [], 0
    for document in documents:
        own = logprobs[start : start + len(document.choices)]
        start += len(document.choices)
        picked.append(_pick(own, document))
    return picked


def _pick(logprobs: list[float], document: Document) -> Picked:
    """The first of equally likely options, as numpy's argmax. Raises ValueError for
    log-probabilities that are not finite."""
    if not np.isfinite(logprobs).all():
        raise ValueError(
            f"the options {document.choices} have the log-probabilities {logprobs}, allowed are "
            "finite ones"
        )
    by_character = [p / n for p, n in zip(logprobs, document.lengths, strict=True)]
    return Picked(
        logprobs,
        int(np.argmax(logprobs)) == document.gold,
        int(np.argmax(by_character)) == document.gold,
    )


def _rendered(tokenizer: Any, document: Document, chat: bool) -> list[tuple[str, str]]:
    """Query and option of each option, as they go into the model: parted by a space, or by the
    chat template."""
    if document.is_final:
        return list(zip(document.queries, document.choices, strict=True))
    if not chat:
        options = [f" {choice}" for choice in document.choices]
        return list(zip(document.queries, options, strict=True))
    queries = [
        in_template(tokenizer, [Message("user", query)], add_generation_prompt=True)
        for query in document.queries
    ]
    return list(zip(queries, document.choices, strict=True))


def option_tokens(tokenizer: Any, query: str, option: str) -> TokenPair:
    """Tokens of a query and its option, encoded together and parted where the query ends.

    White space at the query's end goes to the option; an empty query is the token that begins a
    text. So the harness does it. Raises ValueError for an empty query and a tokenizer without such
    a token, and where no token is left to the option.
    """
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    if not query:
        if first is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path} has no token that begins or ends a "
                "text, and an empty query needs one"
            )
        tokens = tokenizer.encode(option, add_special_tokens=False)
        own = tokens[1:] if tokens[:1] == [first] else tokens
        return _with_option(TokenPair([first], own), query, option)
    bare = query.rstrip()
    option, query = query[len(bare) :] + option, bare
    special = first is None or not query.startswith(tokenizer.decode([first]))
    whole = tokenizer.encode(query + option, add_special_tokens=special)
    start = len(tokenizer.encode(query, add_special_tokens=special))
    return _with_option(TokenPair(whole[:start], whole[start:]), query, option)


def _with_option(pair: TokenPair, query: str, option: str) -> TokenPair:
    if not pair.option:
        raise ValueError(
            f"the option {option!r} has no token of its own behind the query that ends with "
            f"{query[-SHOWN:]!r}: the tokenizer writes its text into the query's last token"
        )
    return pair


@torch.no_grad()
def option_logprobs(model: Any, pairs: Sequence[TokenPair], tokens: int) -> list[float]:
    """The natural log-probability of each option after its query, summed over its tokens.

    At most so many ``tokens`` go through the model at once. What exceeds its context is cut off at
    the query's beginning.
    """
    context = context_tokens(model)
    rows = [_row(pair, context) for pair in pairs]
    found = [0.0] * len(rows)
    with reading(model) as read:
        for chosen, _ in minibatches([[row.inputs] for row in rows], tokens, read.shares):
            sums = row_logprobs(read, [rows[i] for i in chosen])  # (B,)
            for i, logprob in zip(chosen, sums.tolist(), strict=True):
                found[i] = logprob
    return found


def _row(pair: TokenPair, context: int | None) -> TokenRow:
    """A query and its option: the last tokens of which all but the last one fit the context."""
    tokens = [*pair.query, *pair.option]
    tokens = tokens if context is None else tokens[-(context + 1) :]
    start = max(len(tokens) - len(pair.option), 1)
    return TokenRow(tokens, list(range(start, len(tokens))))


def task_figures(
    after: dict[str, list[Picked]], before: dict[str, list[Picked]] | None, draws: Draws
) -> Record:
    """Each task's count, and ``acc`` and ``acc_norm``: a share with its interval, or with
    ``before`` what ``paired_shares`` says."""
    return {
        task: {"count": len(found), **{
            figure: _figure(found, None if before is None else before[task], figure, draws)
            for figure in FIGURES
        }}
        for task, found in after.items()
    }  # fmt: skip


def _figure(
    after: Sequence[Picked], before: Sequence[Picked] | None, figure: str, draws: Draws
) -> Record:
    hits = [getattr(item, figure) for item in after]
    if before is not None:
        return paired_shares([getattr(item, figure) for item in before], hits)
    low, high = share_interval([str(i) for i in range(len(hits))], hits, draws)
    return {"share": _share(after, figure), "low": low, "high": high}


def _share(picked: Sequence[Picked], figure: str) -> float:
    hits = [bool(getattr(item, figure)) for item in picked]
    return sum(hits) / len(hits)


def summary(result: dict[str, Any]) -> str:
    """A result for reading, a line for each task and figure."""
    return "\n".join(
        f"{task} {figure}: {_words(found[figure])} on {found['count']} documents"
        for task, found in result["tasks"].items()
        for figure in FIGURES
    )


def _words(found: Record) -> str:
    if "share" in found:
        return f"{found['share']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    words = f"{found['before']:.3f} → {found['after']:.3f}"
    if found["low"] is None:
        return words
    return f"{words} ({found['low']:+.3f} to {found['high']:+.3f})"


main = command(
    TaskAccuracyConfig, "rlhf_loop.task_accuracy", lambda config: summary(task_accuracy(config))
)


if __name__ == "__main__":
    main()
