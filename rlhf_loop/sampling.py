"""Answer every prompt with every model: ``python -m rlhf_loop.sampling``.

The answers of two variants fill the next batch of comparisons, so each line says what made it. The
models are folders, sampled here, or names at an OpenAI-compatible address. ``responses.jsonl`` is
appended chunk by chunk: a run that was killed continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reward.command import command
from reward.lines import append_records, whole_records
from reward.run_folder import RunFolder
from reward.settings import to_mapping
from rlhf_loop.config import SamplingConfig
from rlhf_loop.engines import Address, Here, address_of, answer_prompts
from rlhf_loop.policy import (
    Drawing,
    answer_text,
    chunks,
    load_chat_model,
    prompt_tokens,
    row_seed,
)
from rlhf_loop.prompts import Prompt, read_prompts


class Source(NamedTuple):
    """One model that answers: ``name`` is its folder's, or the one served at the address."""

    model_index: int
    name: str
    temperature: float


def sample(config: SamplingConfig) -> dict[str, Any]:
    """Write the answers that ``responses.jsonl`` does not hold yet, and the run's result."""
    run = RunFolder(config.out)
    return run.once(to_mapping(config), lambda: _sample(config, run))


def _sample(config: SamplingConfig, run: RunFolder) -> dict[str, Any]:
    prompts = list(read_prompts(config.prompts, config.split))
    responses = run.path / "responses.jsonl"
    have = {(line["prompt_id"], line["model_index"]) for line in whole_records(responses)}
    total, started = len(prompts) * len(_sources(config)), time.monotonic()
    run.rewind_metrics(len(have))
    for source in _sources(config):
        missing = [p for p in prompts if (p.id, source.model_index) not in have]
        for lines in _answers(config, source, missing):
            append_records(responses, lines)
            have |= {(line["prompt_id"], line["model_index"]) for line in lines}
            _log(run, lines, len(have), total, time.monotonic() - started)
    lines = whole_records(responses)
    truncated = sum(line["finish_reason"] == "length" for line in lines)
    return {"responses": len(lines), "truncated": truncated}


def _sources(config: SamplingConfig) -> list[Source]:
    names = [str(folder) for folder in config.model] or list(config.served_model)
    temperatures = config.temperature * (len(names) if len(config.temperature) == 1 else 1)
    return [Source(i, name, temperatures[i]) for i, name in enumerate(names)]


def _log(
    run: RunFolder, lines: Sequence[dict[str, Any]], done: int, total: int, seconds: float
) -> None:
    truncated = sum(line["finish_reason"] == "length" for line in lines) / len(lines)
    run.log_metrics(done, total, **{"sampling/truncated": truncated, "seconds": round(seconds, 3)})


def _answers(
    config: SamplingConfig, source: Source, prompts: list[Prompt]
) -> Iterator[list[dict[str, Any]]]:
    """The lines of one model, a chunk at a time."""
    if not prompts:
        return
    engine, drawing = _engine(config, source), _drawing(config, source)
    size = config.parallel_requests
    if isinstance(engine, Here):
        size = config.generation_rows
        prompts = sorted(prompts, key=lambda p: -len(prompt_tokens(engine.tokenizer, p.messages)))
    for chosen in (prompts[part] for part in chunks(len(prompts), size)):
        seeds = [row_seed(config.seed, source.model_index, prompt.id) for prompt in chosen]
        answers = answer_prompts(engine, [prompt.messages for prompt in chosen], seeds, drawing)
        tokenizer = engine.tokenizer
        yield [
            _line(config, source, prompt, seed, answer_text(tokenizer, answer), answer.finished)
            for prompt, seed, answer in zip(chosen, seeds, answers, strict=True)
        ]


def _engine(config: SamplingConfig, source: Source) -> Here | Address:
    if config.address is not None:
        return address_of(config, source.name)
    model, tokenizer = load_chat_model(Path(source.name), config.device, config.dtype)
    return Here(model, tokenizer, config.generation_rows)


def _drawing(config: SamplingConfig, source: Source) -> Drawing:
    return Drawing(config.max_new_tokens, source.temperature, config.top_p)


def _line(
    config: SamplingConfig, source: Source, prompt: Prompt, seed: int, text: str, finished: bool
) -> dict[str, Any]:
    return {
        "prompt_id": prompt.id,
        "model_index": source.model_index,
        "model": Path(source.name).name if config.address is None else source.name,
        "temperature": source.temperature,
        "top_p": config.top_p,
        "seed": seed,
        "text": text,
        "finish_reason": "stop" if finished else "length",
    }


def summary(result: dict[str, Any]) -> str:
    """A result for reading."""
    return f"{result['responses']} responses, {result['truncated']} cut at the limit"


main = command(SamplingConfig, "rlhf_loop.sampling", lambda config: summary(sample(config)))


if __name__ == "__main__":
    main()
