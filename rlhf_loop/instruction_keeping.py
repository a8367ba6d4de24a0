"""Does an instruction of the first turn still hold? ``python -m rlhf_loop.instruction_keeping``.

The multi-turn evaluation of Ghost Attention (Llama 2, section 3.3 and table 30). The instruction
stands in the first user message; the model answers every turn itself, and at turns 2, 4, 6 and 20
its answer is checked against each constraint. A dialogue obeys at a turn where it obeys all of its
constraints. Before and after are the same dialogues, compared pair by pair.

An answer that was cut counts as it stands. A dialogue ends where the next answer has no room in the
model's context: it obeys at no later turn, and ``cut_short`` counts it. Constraints without a rule
need a judge and are left out where none is given. Answers are stored turn by turn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward.command import command
from reward.lines import Record, append_records, whole_records
from reward.measures.resampling import Draws, share_interval
from reward.run_folder import RunFolder
from rlhf_loop.config import InstructionKeepingConfig, inputs_of
from rlhf_loop.constraints import draw_constraints, instruction, obeys, read_constraints
from rlhf_loop.engines import Engine, answer_prompts, engine_for, has_room
from rlhf_loop.ghost_attention import Script, strung_requests, training_messages
from rlhf_loop.measures.asking import ChatJudge, ask_all, keeping_question
from rlhf_loop.measures.paired_figures import paired_shares
from rlhf_loop.policy import Drawing, answer_text, load_chat_model, row_seed
from rlhf_loop.prompts import read_prompts


def keep(config: InstructionKeepingConfig) -> Record:
    """Measure what is not measured yet; returns the run's result.

    Raises ValueError without prompts or without a constraint that can be checked, JudgeRefused,
    RunFolderBusy.
    """
    run = RunFolder(config.out)
    return run.once(config, lambda: _keep(config, run))


def _keep(config: InstructionKeepingConfig, run: RunFolder) -> Record:
    run.write_provenance(inputs_of(config))
    run.rewind_metrics(-1)
    scripts = _scripts(config)
    folders = {"after": config.policy}
    if config.against is not None:
        folders["before"] = config.against
    held, cut_short = {}, {}
    for number, (name, folder) in enumerate(folders.items(), start=1):
        answers = _answers(config, run, name, folder, scripts)
        held[name] = _held(config, run.path / f"verdicts-{name}.jsonl", scripts, answers)
        cut_short[name] = {
            str(turn): sum(len(said) < turn for said in answers) for turn in config.turns
        }
        run.log_metrics(number, len(folders))
    draws = Draws(config.resamples, config.seed)
    return {
        "dialogues": len(scripts),
        "turns": figures(held["after"], held.get("before"), draws),
        "cut_short": cut_short,
    }


def _scripts(config: InstructionKeepingConfig) -> list[Script]:
    """One constraint each, so that a turn obeys or does not."""
    kinds = read_constraints(config.constraints)
    if config.judge_address is None:
        kinds = [kind for kind in kinds if kind.check != "judge"]
    if not kinds:
        raise ValueError("no constraint has a rule: give a judge_address, or constraints with one")
    prompts = [p for p in read_prompts(config.prompts, config.split) if not p.is_safety]
    if not prompts:
        raise ValueError(f"{config.prompts} has no {config.split} prompts without a safety tag")
    draw = random.Random(f"{config.seed} instruction keeping")
    lengths = [max(config.turns)] * config.dialogues
    scripts = []
    for number, requests in enumerate(strung_requests(prompts, lengths, draw)):
        constraints = tuple(draw_constraints(kinds, 1, draw))
        words = instruction(constraints, draw.random() < config.terse_share)
        scripts.append(Script(number, requests, words, constraints))
    return scripts


def _answers(
    config: InstructionKeepingConfig,
    run: RunFolder,
    name: str,
    folder: Path,
    scripts: Sequence[Script],
) -> list[list[str]]:
    """The model's answers of every dialogue, one for each turn that it came to.

    The file of that name has a line for each turn, null in it where a dialogue had ended before.
    """
    file = run.path / f"{name}.jsonl"
    answers: list[list[str]] = [[] for _ in scripts]
    stored = whole_records(file)
    for record in stored:
        _say(answers, record["answers"])
    if len(stored) < max(config.turns):
        engine = engine_for(config, *load_chat_model(folder, config.device, config.dtype))
        for turn in range(len(stored), max(config.turns)):
            drawn = _turn(config, engine, scripts, answers, turn)
            run.begin()
            append_records(file, [{"turn": turn + 1, "answers": drawn}])
            _say(answers, drawn)
    return answers


def _say(answers: Sequence[list[str]], turn: Sequence[str | None]) -> None:
    for said, text in zip(answers, turn, strict=True):
        said += [] if text is None else [text]


def _turn(
    config: InstructionKeepingConfig,
    engine: Engine,
    scripts: Sequence[Script],
    answers: Sequence[Sequence[str]],
    turn: int,
) -> list[str | None]:
    """The answers at one turn (from 0), None for dialogues that have ended or end here."""
    asked = {
        i: training_messages(script, said)
        for i, (script, said) in enumerate(zip(scripts, answers, strict=True))
        if len(said) == turn
    }
    asked = {i: m for i, m in asked.items() if has_room(engine, m, config.max_new_tokens)}
    seeds = [row_seed(config.seed, "keeping", scripts[i].number, turn) for i in asked]
    drawing = Drawing(config.max_new_tokens, config.temperature)
    drawn = answer_prompts(engine, [*asked.values()], seeds, drawing)
    texts = {i: answer_text(engine.tokenizer, a) for i, a in zip(asked, drawn, strict=True)}
    return [texts.get(i) for i in range(len(scripts))]


def _held(
    config: InstructionKeepingConfig,
    file: Path,
    scripts: Sequence[Script],
    answers: Sequence[Sequence[str]],
) -> dict[int, list[bool]]:
    """For each judged turn, whether each dialogue obeys; what a judge does not say is a no, and so
    is a dialogue that ended before."""
    by_rule = {
        turn: [
            obeys(script.constraints[0], said[turn - 1]) if len(said) >= turn else False
            for script, said in zip(scripts, answers, strict=True)
        ]
        for turn in config.turns
    }
    questions = [
        keeping_question(
            f"{turn}-{i}", scripts[i].instruction, scripts[i].requests[turn - 1],
            answers[i][turn - 1],
        )
        for turn, found in by_rule.items()
        for i, held in enumerate(found)
        if held is None
    ]  # fmt: skip
    said: dict[str, str | None] = {}
    if questions:
        assert config.judge_address is not None, config
        said = ask_all(ChatJudge(config.judge_address, config.judge_model), questions, file)
    return {
        turn: [
            said.get(f"{turn}-{i}") == "yes" if held is None else held
            for i, held in enumerate(found)
        ]
        for turn, found in by_rule.items()
    }


def figures(
    after: dict[int, list[bool]], before: dict[int, list[bool]] | None, draws: Draws
) -> Record:
    """By turn: the share that still obeys with its interval, and against ``before`` what
    ``paired_shares`` says."""
    found: Record = {}
    for turn, held in after.items():
        low, high = share_interval([str(i) for i in range(len(held))], held, draws)
        entry: Record = {"share": sum(held) / len(held), "low": low, "high": high}
        if before is not None:
            entry["change"] = paired_shares(before[turn], held)
        found[str(turn)] = entry
    return found


def summary(result: dict[str, Any]) -> str:
    """A result for reading, a line for each turn."""
    lines = []
    for turn, found in result["turns"].items():
        before = f"{found['change']['before']:.1%} → " if "change" in found else ""
        interval = f"{found['low']:.1%} to {found['high']:.1%}"
        ended = max(counts[turn] for counts in result["cut_short"].values())
        note = f", {ended} of {result['dialogues']} dialogues had no room left" if ended else ""
        lines.append(f"turn {turn}: {before}{found['share']:.1%} still obey ({interval}){note}")
    return "\n".join(lines)


main = command(
    InstructionKeepingConfig, "rlhf_loop.instruction_keeping", lambda config: summary(keep(config))
)


if __name__ == "__main__":
    main()
