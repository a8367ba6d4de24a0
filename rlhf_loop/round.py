"""One round: from a chat model and two reward models to a new chat model. The only list of stages.

Standard library only: the web side imports ``STAGES``, ``stages_of`` and ``stage_command`` and runs
one run folder per stage; ``python -m rlhf_loop.round`` runs the same commands one after the other,
in ``out/rejection``, ``out/ppo`` and so on, those that several processes can share behind its
``launcher``. A temperature sweep, rejection sampling, PPO and evaluation are what a round has
unless its settings name others; docs/round.md describes each.

Left out on purpose: collecting, retraining reward models and the decision to release. They run on
their own clocks; a round is given two finished reward models and ends with figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reward.command import LOG_VARIABLE, Refused, behind, command
from reward.run_folder import PARENT_VARIABLE, RunFolder
from reward.settings import from_mapping, to_flags
from rlhf_loop.config import (
    DATA_FILES,
    RANKED_STAGES,
    STAGE_CONFIGS,
    TRAINING_STAGES,
    RejectionConfig,
    RoundConfig,
    inputs_of,
)

STAGES = tuple(STAGE_CONFIGS)


class StageFailed(Refused):
    """A stage's process ended without leaving a result."""


def stages_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a round with these settings, in their order."""
    default = RoundConfig.__dataclass_fields__["stages"].default
    return tuple(settings.get("stages", default))


def trained_next(stage: str, settings: Mapping[str, Any]) -> str | None:
    """The stage that trains the model that ``stage`` leaves; None where that is the round's own."""
    order = stages_of(settings)
    later = order[order.index(stage) + 1 :]
    return next((name for name in later if name in TRAINING_STAGES), None)


def stage_command(
    stage: str,
    config: RoundConfig,
    out: Path,
    policy: Path,
    results: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    built: Sequence[Path] = (),
) -> list[str]:
    """The command of one stage, as an argument list.

    ``policy`` is the chat model that the stage starts from: the round's own for the first, then the
    ``model/`` of the last stage that left one. ``out`` is the stage's run folder. ``results`` are
    those of the finished stages by name: rejection sampling draws at the temperature that a sweep
    has picked. ``built`` are the files that the round's builders of data left: it is fine-tuned on
    them beside what its own settings name.

    Raises ValueError for a stage that is none.
    """
    return command_of(stage, _settings_of(stage, config, out, policy, results, built))


def _settings_of(
    stage: str,
    config: RoundConfig,
    out: Path,
    policy: Path,
    results: Mapping[str, Mapping[str, Any]],
    built: Sequence[Path],
) -> dict[str, Any]:
    """All settings of a stage, with what the stages before it have left."""
    settings = config.settings_of(stage, policy, out)
    if stage == "rejection" and "temperature" in results:
        settings["temperature"] = results["temperature"]["temperature"]
    if stage == "rejection" and built:
        named = from_mapping(RejectionConfig, settings).sft_data
        settings["sft_data"] = [*(named or ()), *built]
    return settings


def command_of(name: str, settings: Mapping[str, Any]) -> list[str]:
    """The argument list of ``python -m rlhf_loop.NAME`` with these settings."""
    return [sys.executable, "-m", f"rlhf_loop.{name}", *to_flags(settings)]


def run_round(config: RoundConfig) -> dict[str, Any]:
    """Run the stages that have no result yet, and return the round's result.

    Raises ValueError where a stage that has begun was asked for something else, before anything is
    changed; StageFailed naming the stage, its exit status and its log; RunFolderBusy when another
    process runs the same round.
    """
    run = RunFolder(config.out)
    _refuse_other_stages(config)
    return run.once(config, lambda: _run_round(config, run))


def _refuse_other_stages(config: RoundConfig) -> None:
    results = dict[str, dict[str, Any]]()
    for stage in config.stages:
        folder = RunFolder(config.out / stage)
        folder.refuse_other(from_mapping(STAGE_CONFIGS[stage], _asked(stage, config, results)))
        result = folder.result()
        if result is None:
            return
        results[stage] = result


def _run_round(config: RoundConfig, run: RunFolder) -> dict[str, Any]:
    run.write_provenance(inputs_of(config))
    run.rewind_metrics(0)
    results = dict[str, dict[str, Any]]()
    for number, stage in enumerate(config.stages, start=1):
        folder = RunFolder(config.out / stage)
        result = folder.result()
        if result is None:
            command = command_of(stage, _asked(stage, config, results))
            result = finish_stage(stage, behind(launcher_of(stage, config), command), folder)
        results[stage] = result
        run.log_metrics(number, len(config.stages), stage=stage, **_figures(result))
    model = str(_policy(config, results).relative_to(config.out))
    return {"model": model, "evaluation": results["evaluate"]}


def _asked(
    stage: str, config: RoundConfig, results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """All settings of a stage after those that have left ``results``."""
    built = [config.out / name / DATA_FILES[name] for name in results if name in DATA_FILES]
    policy = _policy(config, results)
    return _settings_of(stage, config, config.out / stage, policy, results, built)


def _policy(config: RoundConfig, results: Mapping[str, Mapping[str, Any]]) -> Path:
    """The chat model of the last stage that left one, the round's own before."""
    left = [config.out / stage / str(it["model"]) for stage, it in results.items() if "model" in it]
    return left[-1] if left else config.policy


def launcher_of(stage: str, config: RoundConfig) -> str | None:
    """The round's launcher, of a stage whose work several processes can share."""
    return config.launcher if stage in RANKED_STAGES else None


def finish_stage(
    stage: str, command: list[str], folder: RunFolder, **environment: str
) -> dict[str, Any]:
    """Run a stage's command to its end and return its result; it ends with this process. What it
    prints is seen here, progress on a terminal too, and stands in its log beside its errors.

    Raises StageFailed where it leaves none.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    named = {PARENT_VARIABLE: str(os.getpid()), LOG_VARIABLE: str(folder.log_file.absolute())}
    variables = {**os.environ, **environment, **named}
    with folder.log_file.open("ab") as log:
        status = subprocess.run(
            command, env=variables, stderr=log, start_new_session=True, check=False
        ).returncode
    result = folder.result()
    if result is None:
        raise StageFailed(f"stage {stage} ended with status {status}:\n{folder.log_tail()}")
    return result


def _figures(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if isinstance(value, float)}


main = command(
    RoundConfig,
    "rlhf_loop.round",
    lambda config: f"new chat model: {run_round(config)['model']}",
)


if __name__ == "__main__":
    main()
