"""Does an instruction of the first turn still hold? ``python -m rlhf_loop.instruction_keeping``.

The multi-turn evaluation of Ghost Attention (Llama 2, section 3.3 and table 30). The instruction
stands in the first user message; the model answers every turn itself, and at turns 2, 4, 6 and 20
its answer is checked against each constraint. A dialogue obeys at a turn where it obeys all of its
constraints. Before and after are the same dialogues, compared pair by pair.

An answer that was cut counts as it stands. Constraints without a rule need a judge and are left out
where none is given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reward.command import command
from reward.lines import whole_records, write_records
from reward.measures.resampling import Draws, share_interval
from reward.run_folder import RunFolder
from reward.settings import to_mapping
from rlhf_loop.config import InstructionKeepingConfig, inputs_of
from rlhf_loop.constraints import draw_constraints, instruction, obeys, read_constraints
from rlhf_loop.engines import answer_prompts, engine_for
from rlhf_loop.ghost_attention import Script, strung_requests, training_messages
from rlhf_loop.measures.asking import ChatJudge, ask_all, keeping_question
from rlhf_loop.measures.paired_figures import paired_shares
from rlhf_loop.policy import Drawing, answer_text, load_chat_model, row_seed
from rlhf_loop.prompts import read_prompts

Record = dict[str, Any]


def keep(config: InstructionKeepingConfig) -> Record:
    """Measure what is not measured yet; returns the run's result.

    Raises ValueError without prompts or without a constraint that can be checked, JudgeRefused,
    RunFolderBusy.
    """
    run = RunFolder(config.out)
    return run.once(to_mapping(config), lambda: _keep(config, run))


def _keep(config: InstructionKeepingConfig, run: RunFolder) -> Record:
    run.write_provenance(inputs_of(config))
    run.rewind_metrics(-1)
    scripts = _scripts(config)
    folders = {"after": config.policy}
    if config.against is not None:
        folders["before"] = config.against
    held = {}
    for number, (name, folder) in enumerate(folders.items(), start=1):
        answers = _answers(config, run.path / f"{name}.jsonl", folder, scripts)
        held[name] = _held(config, run.path / f"verdicts-{name}.jsonl", scripts, answers)
        run.log_metrics(number, len(folders))
    draws = Draws(config.resamples, config.seed)
    return {"dialogues": len(scripts), "turns": figures(held["after"], held.get("before"), draws)}


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
    config: InstructionKeepingConfig, file: Path, folder: Path, scripts: Sequence[Script]
) -> list[list[str]]:
    """The model's answer at every turn of every dialogue, stored when it is whole."""
    if not file.exists():
        engine = engine_for(config, *load_chat_model(folder, config.device, config.dtype))
        drawing = Drawing(config.max_new_tokens, config.temperature)
        answers: list[list[str]] = [[] for _ in scripts]
        for turn in range(max(config.turns)):
            asked = [
                training_messages(script, said)
                for script, said in zip(scripts, answers, strict=True)
            ]
            seeds = [row_seed(config.seed, "keeping", s.number, turn) for s in scripts]
            drawn = answer_prompts(engine, asked, seeds, drawing)
            for said, answer in zip(answers, drawn, strict=True):
                said.append(answer_text(engine.tokenizer, answer))
        write_records(file, [{"answers": said} for said in answers])
    return [record["answers"] for record in whole_records(file)]


def _held(
    config: InstructionKeepingConfig,
    file: Path,
    scripts: Sequence[Script],
    answers: Sequence[Sequence[str]],
) -> dict[int, list[bool]]:
    """For each judged turn, whether each dialogue obeys; what a judge does not say is a no."""
    by_rule = {
        turn: [
            obeys(script.constraints[0], said[turn - 1])
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
        lines.append(f"turn {turn}: {before}{found['share']:.1%} still obey ({interval})")
    return "\n".join(lines)


main = command(
    InstructionKeepingConfig, "rlhf_loop.instruction_keeping", lambda config: summary(keep(config))
)


if __name__ == "__main__":
    main()
