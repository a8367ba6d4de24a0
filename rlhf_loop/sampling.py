"""Answer every prompt with every model: ``python -m rlhf_loop.sampling``.

The answers of two variants fill the next batch of comparisons, so each line says what made it. The
models are folders, drawn from here or by the address that serves one after the other.
``responses.jsonl`` is made part by part: a run that was killed continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from reward.command import command
from reward.lines import Record, whole_records
from reward.run_folder import RunFolder
from rlhf_loop.candidates import mean
from rlhf_loop.config import SamplingConfig, inputs_of
from rlhf_loop.engines import Engine, answer_prompts, engine_for
from rlhf_loop.parts import make_parts
from rlhf_loop.policy import (
    Drawing,
    answer_text,
    chunks,
    load_chat_model,
    prompt_tokens,
    row_seed,
)
from rlhf_loop.prompts import Prompt, read_prompts
from rlhf_loop.room import refuse_without_room


class Source(NamedTuple):
    """One model that answers."""

    model_index: int
    folder: Path
    temperature: float


def sample(config: SamplingConfig) -> dict[str, Any]:
    """Write the answers that ``responses.jsonl`` does not hold yet, and the run's result.

    Raises ValueError for another configuration than the folder's, where the prompts file has none
    of the split, and for prompts that leave no room for an answer in one of the models;
    SamplerRefused where an address does not answer or serves other weights, RunFolderBusy where
    another process runs in the same folder.
    """
    run = RunFolder(config.out)
    return run.once(config, lambda: _sample(config, run))


def _sample(config: SamplingConfig, run: RunFolder) -> dict[str, Any]:
    run.write_provenance(inputs_of(config))
    prompts = list(read_prompts(config.prompts, config.split))
    if not prompts:
        split = "" if config.split is None else f"{config.split} "
        raise ValueError(f"{config.prompts} has no {split}prompts, and sampling needs some")
    refuse_without_room(prompts, config.max_new_tokens, config.model)
    parts = list(product(_sources(config), chunks(len(prompts), config.chunk_prompts)))
    sizes = [len(prompts[part]) for _, part in parts]
    opened: dict[Source, tuple[Engine, list[Prompt]]] = {}

    def answer(number: int) -> list[Record]:
        source, part = parts[number]
        if source not in opened:
            opened.clear()  # one model at a time
            opened[source] = _opened(config, prompts, source)
        engine, ordered = opened[source]
        return _answers(config, source, engine, ordered[part])

    responses = run.path / "responses.jsonl"
    make_parts(run, responses, sizes, len(parts), answer, _part_figures)
    lines = whole_records(responses)
    truncated = sum(line["finish_reason"] == "length" for line in lines)
    return {"responses": len(lines), "truncated": truncated}


def _sources(config: SamplingConfig) -> list[Source]:
    count = len(config.model)
    temperatures = config.temperature * (count if len(config.temperature) == 1 else 1)
    return [Source(i, folder, temperatures[i]) for i, folder in enumerate(config.model)]


def _part_figures(lines: Sequence[Record]) -> dict[str, float]:
    return {"sampling/truncated": mean(line["finish_reason"] == "length" for line in lines)}


def _opened(
    config: SamplingConfig, prompts: Sequence[Prompt], source: Source
) -> tuple[Engine, list[Prompt]]:
    """Who answers for a source, and the order in which it is asked: long prompts together."""
    engine = engine_for(config, *load_chat_model(source.folder, config.device, config.dtype))
    lengths = {p.id: len(prompt_tokens(engine.tokenizer, p.messages)) for p in prompts}
    return engine, sorted(prompts, key=lambda prompt: -lengths[prompt.id])


def _answers(
    config: SamplingConfig, source: Source, engine: Engine, prompts: Sequence[Prompt]
) -> list[Record]:
    """The lines of one model's answers to these prompts."""
    seeds = [row_seed(config.seed, source.model_index, prompt.id) for prompt in prompts]
    drawing = Drawing(config.max_new_tokens, source.temperature, config.top_p)
    answers = answer_prompts(engine, [prompt.messages for prompt in prompts], seeds, drawing)
    return [
        _line(config, source, prompt, seed, answer_text(engine.tokenizer, answer), answer.finished)
        for prompt, seed, answer in zip(prompts, seeds, answers, strict=True)
    ]


def _line(
    config: SamplingConfig, source: Source, prompt: Prompt, seed: int, text: str, finished: bool
) -> Record:
    return {
        "prompt_id": prompt.id,
        "model_index": source.model_index,
        "model": source.folder.name,
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
