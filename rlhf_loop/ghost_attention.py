"""Ghost Attention: ``python -m rlhf_loop.ghost_attention`` (Llama 2, section 3.3).

Dialogues that teach a model to keep an instruction of the first turn. The instruction is put before
**every** user message while the latest chat model answers turn by turn; in what is trained on it
stands **in the first turn only**, and the loss is on the last answer only, so that the earlier
answers, drawn under a repeated instruction, are context and nothing that is learnt.

``dialogues.jsonl`` holds one line ``{messages: […], split, answers: "last"}`` for each dialogue, as
``rlhf_loop.sft`` reads it: its loss is on the last answer whatever its settings say, and it refuses
held-out ones. How many dialogues and which hyper-parameters the paper used is not said.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from reward.command import command
from reward.lines import Record, whole_records, write_records
from reward.preferences import Message, dialogue_root
from reward.run_folder import RunFolder
from rlhf_loop.candidates import mean
from rlhf_loop.config import DATA_FILES, GhostAttentionConfig, LearntAnswers, inputs_of
from rlhf_loop.constraints import (
    Constraint,
    ConstraintKind,
    disobeys,
    draw_constraints,
    fault_of,
    instruction,
    read_constraints,
    values_of_list,
)
from rlhf_loop.engines import Engine, answer_prompts, engine_for, has_room
from rlhf_loop.parts import make_parts
from rlhf_loop.policy import Drawing, answer_text, chunks, load_chat_model, row_seed
from rlhf_loop.prompts import Prompt, learnt_prompts

CHUNK_DIALOGUES = 64  # answered and stored together; the unit of resuming


class Script(NamedTuple):
    """A dialogue before anybody has answered."""

    number: int
    requests: tuple[str, ...]  # user messages, without the instruction
    instruction: str
    constraints: tuple[Constraint, ...]


def build(config: GhostAttentionConfig) -> Record:
    """Write the dialogues that ``dialogues.jsonl`` does not hold yet; returns the run's result.

    Dialogues that cannot be trained on are counted by the reason; where all are, the file is empty.
    Raises ValueError where the prompts file has no prompt to ask, RunFolderBusy.
    """
    run = RunFolder(config.out)
    return run.once(config, lambda: _build(config, run))


def _build(config: GhostAttentionConfig, run: RunFolder) -> Record:
    run.write_provenance(inputs_of(config))
    engine = engine_for(config, *load_chat_model(config.policy, config.device, config.dtype))
    kinds = _kinds(config, run, engine)
    scripts = _scripts(config, kinds)
    file = run.path / "drawn.jsonl"
    parts = [scripts[part] for part in chunks(len(scripts), CHUNK_DIALOGUES)]

    def draw(number: int) -> list[Record]:
        return _answered(config, engine, parts[number])

    make_parts(run, file, [*map(len, parts)], len(parts), draw, _part_figures)
    drawn = whole_records(file)
    kept = [line for line in drawn if line["left_out"] is None]
    dialogues = [_training_line(config, line) for line in kept]
    write_records(run.path / DATA_FILES["ghost_attention"], dialogues)
    return _summary(drawn, kept, kinds)


def _part_figures(lines: Sequence[Record]) -> dict[str, float]:
    return {"ghost_attention/kept": mean(line["left_out"] is None for line in lines)}


def _kinds(config: GhostAttentionConfig, run: RunFolder, engine: Engine) -> list[ConstraintKind]:
    """The kinds of constraints; values that are drawn are drawn once, into ``values.jsonl``, for
    another start may find another engine, which names others."""
    kinds = read_constraints(config.constraints)
    if not config.lists_drawn:
        return kinds
    file = run.path / "values.jsonl"
    if not file.exists():
        drawn = _with_drawn_values(config, engine, kinds)
        run.begin()  # from here on the folder has these values and no others
        write_records(file, [{"kind": kind.kind, "values": kind.values} for kind in drawn])
    stored = zip(kinds, whole_records(file), strict=True)
    return [kind._replace(values=tuple(record["values"])) for kind, record in stored]


def _with_drawn_values(
    config: GhostAttentionConfig, engine: Engine, kinds: Sequence[ConstraintKind]
) -> list[ConstraintKind]:
    """The kinds with what the chat model itself names when it is asked for a list of values."""
    drawing = Drawing(config.max_new_tokens, config.temperature or 1.0, config.top_p)
    found = []
    for kind in kinds:
        values = list(kind.values)
        if kind.ask is not None:
            asked = [[Message("user", kind.ask)]] * config.lists_drawn
            seeds = [row_seed(config.seed, "values", kind.kind, i) for i in range(len(asked))]
            answers = answer_prompts(engine, asked, seeds, drawing)
            texts = [answer_text(engine.tokenizer, answer) for answer in answers]
            named = [value for text in texts for value in values_of_list(text)]
            values += [value for value in named if not fault_of(kind, value)]
        found.append(kind._replace(values=tuple(dict.fromkeys(values))))
    return found


def _scripts(config: GhostAttentionConfig, kinds: Sequence[ConstraintKind]) -> list[Script]:
    known = learnt_prompts(config.prompts, config.split, config.held_out)
    prompts = [prompt for prompt in known if not prompt.is_safety]
    if not prompts:
        raise ValueError(f"{config.prompts} has no {config.split} prompts without a safety tag")
    draw = random.Random(f"{config.seed} ghost attention")
    lengths = [
        draw.randint(config.shortest_turns, config.longest_turns) for _ in range(config.dialogues)
    ]
    dialogues = strung_requests(prompts, lengths, draw)
    scripts = []
    for number, requests in enumerate(dialogues):
        constraints = tuple(draw_constraints(kinds, config.most_constraints, draw))
        is_terse = draw.random() < config.terse_share
        words = instruction(constraints, is_terse)
        scripts.append(Script(number, requests, words, constraints))
    return scripts


def strung_requests(
    prompts: Sequence[Prompt], lengths: Sequence[int], draw: random.Random
) -> Iterator[tuple[str, ...]]:
    """The user messages of dialogues of those lengths.

    A prompt of several turns brings its own user messages one after the other; those of other
    prompts follow where a dialogue is longer. System messages and answers are left out.
    """
    order: list[Prompt] = []
    for length in lengths:
        requests: list[str] = []
        while len(requests) < length:
            if not order:
                order = draw.sample(list(prompts), len(prompts))
            requests += [m.content for m in order.pop().messages if m.role == "user"]
        yield tuple(requests[:length])


def with_instruction(words: str, request: str) -> str:
    """A user message that carries the instruction."""
    return f"{words}\n\n{request}"


def _answered(
    config: GhostAttentionConfig, engine: Engine, scripts: Sequence[Script]
) -> list[Record]:
    """Each script with the answers that the model gives under the repeated instruction.

    A dialogue ends where an answer is cut or empty, or the next one has no room in the context;
    with fewer than two turns it is left out.
    """
    drawing = Drawing(config.max_new_tokens, config.temperature, config.top_p)
    answers: list[list[str]] = [[] for _ in scripts]
    going = list(range(len(scripts)))
    for turn in range(max(len(script.requests) for script in scripts)):
        going = [i for i in going if turn < len(scripts[i].requests)]
        prompts = {i: sampling_messages(scripts[i], answers[i]) for i in going}
        going = [i for i in going if has_room(engine, prompts[i], config.max_new_tokens)]
        asked = [prompts[i] for i in going]
        seeds = [row_seed(config.seed, "ghost", scripts[i].number, turn) for i in going]
        drawn = answer_prompts(engine, asked, seeds, drawing)
        still = []
        for i, answer in zip(going, drawn, strict=True):
            text = answer_text(engine.tokenizer, answer)
            if answer.finished and text:
                answers[i].append(text)
                still.append(i)
        going = still
    return [_drawn_line(config, *item) for item in zip(scripts, answers, strict=True)]


def sampling_messages(script: Script, answers: Sequence[str]) -> list[Message]:
    """What the next answer is drawn from: the instruction stands in every user message."""
    return _dialogue(
        [with_instruction(script.instruction, request) for request in script.requests], answers
    )


def training_messages(script: Script, answers: Sequence[str]) -> list[Message]:
    """What is trained on: the instruction stands in the first user message only."""
    first = with_instruction(script.instruction, script.requests[0])
    return _dialogue([first, *script.requests[1:]], answers)


def _dialogue(requests: Sequence[str], answers: Sequence[str]) -> list[Message]:
    """Requests with their answers; one request more than answers where there is one."""
    messages: list[Message] = []
    for turn, request in enumerate(requests[: len(answers) + 1]):
        messages.append(Message("user", request))
        if turn < len(answers):
            messages.append(Message("assistant", answers[turn]))
    return messages


def _drawn_line(config: GhostAttentionConfig, script: Script, answers: Sequence[str]) -> Record:
    left_out = None
    if len(answers) < 2:
        left_out = "an answer was cut, empty or without room"
    elif config.only_obeying and disobeys(script.constraints, answers[-1]):
        left_out = "the last answer does not obey"
    shortened = script._replace(requests=script.requests[: len(answers)])
    return {
        "messages": [m._asdict() for m in training_messages(shortened, answers)] if answers else [],
        "instruction": script.instruction,
        "constraints": [constraint.record() for constraint in script.constraints],
        "left_out": left_out,
    }


def _training_line(config: GhostAttentionConfig, line: Record) -> Record:
    """``root`` is that of the bare first request: by it the dialogue is known as held out."""
    first = line["messages"][0]["content"]
    request = first.removeprefix(with_instruction(line["instruction"], ""))
    kept = {name: value for name, value in line.items() if name != "left_out"}
    return {
        **kept,
        "root": dialogue_root([Message("user", request)]),
        "split": config.split,
        "answers": LearntAnswers.LAST,
        "source": "ghost attention",
    }


def _summary(
    drawn: Sequence[Record], kept: Sequence[Record], kinds: Sequence[ConstraintKind]
) -> Record:
    turns = Counter(len(line["messages"]) // 2 for line in kept)
    return {
        "dialogues": len(kept),
        "begun": len(drawn),
        "left_out": dict(Counter(line["left_out"] for line in drawn if line["left_out"])),
        "turns": {str(n): turns[n] for n in sorted(turns)},
        "values": {kind.kind: list(kind.values) for kind in kinds},
    }


def summary(result: dict[str, Any]) -> str:
    """A result for reading."""
    left_out = "; ".join(f"{reason}: {count}" for reason, count in result["left_out"].items())
    found = f"{result['dialogues']} of {result['begun']} dialogues can be trained on"
    return f"{found} ({left_out})" if left_out else found


main = command(
    GhostAttentionConfig, "rlhf_loop.ghost_attention", lambda config: summary(build(config))
)


if __name__ == "__main__":
    main()
