"""One round: rejection sampling → PPO → evaluation. The only list of stages.

Standard library only: the web side imports ``STAGES`` and ``stage_command`` and runs one run folder
per stage; ``python -m rlhf_loop.round`` runs the same commands one after the other, in
``out/rejection``, ``out/ppo`` and ``out/evaluate``.

Left out on purpose: collecting, retraining reward models and the decision to release. They run on
their own clocks; a round is given two finished reward models and ends with figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from reward.run_folder import PARENT_VARIABLE, RunFolder, RunFolderBusy
from reward.settings import parse, to_flags, to_mapping
from rlhf_loop.config import RoundConfig

STAGES = ("rejection", "ppo", "evaluate")


class StageFailed(RuntimeError):
    """A stage's process ended without leaving a result."""


def stage_command(stage: str, config: RoundConfig, out: Path, policy: Path) -> list[str]:
    """The command of one stage, as an argument list.

    ``policy`` is the chat model that the stage starts from: the round's own for ``rejection``, the
    rejection stage's ``model/`` for ``ppo``, the PPO stage's ``model/`` for ``evaluate``, which
    judges it against the round's own. ``out`` is the stage's run folder.

    Raises ValueError for a stage that is none.
    """
    overrides: dict[str, dict[str, Any]] = {
        "rejection": config.rejection,
        "ppo": config.ppo,
        "evaluate": {"against": config.policy, **config.evaluate},
    }
    if stage not in overrides:
        raise ValueError(f"stage is {stage!r}, allowed are {', '.join(STAGES)}")
    settings = {**config.shared(), **overrides[stage], "policy": policy, "out": out}
    return [sys.executable, "-m", f"rlhf_loop.{stage}", *to_flags(settings)]


def run_round(config: RoundConfig) -> dict[str, Any]:
    """Run the stages that have no result yet, and return the round's result.

    Raises StageFailed naming the stage, its exit status and its log; RunFolderBusy when another
    process runs the same round.
    """
    run = RunFolder(config.out)
    with run.locked():
        run.write_config(to_mapping(config))
        finished = run.result()
        if finished is not None:
            return finished
        run.rewind_metrics(0)
        policy = config.policy
        for number, stage in enumerate(STAGES, start=1):
            result = _run_stage(stage, config, policy)
            run.log_metrics(number, len(STAGES), stage=stage, **_figures(result))
            if "model" in result:
                policy = config.out / stage / str(result["model"])
        run.write_result({"model": str(policy.relative_to(config.out)), "evaluation": result})
        return run.result() or {}


def _run_stage(stage: str, config: RoundConfig, policy: Path) -> dict[str, Any]:
    folder = RunFolder(config.out / stage)
    result = folder.result()
    if result is None:
        folder.path.mkdir(parents=True, exist_ok=True)
        command = stage_command(stage, config, folder.path, policy)
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
        with folder.log_file.open("ab") as log:
            status = subprocess.run(
                command, env=environment, stderr=log, start_new_session=True, check=False
            ).returncode
        result = folder.result()
        if result is None:
            raise StageFailed(f"stage {stage} ended with status {status}:\n{folder.log_tail()}")
    return result


def _figures(result: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if isinstance(value, float)}


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    config = parse(RoundConfig, "rlhf_loop.round", argv)
    try:
        result = run_round(config)
    except (ValueError, OSError, RunFolderBusy, StageFailed) as error:
        sys.exit(str(error))
    print(f"new chat model: {result['model']}")


if __name__ == "__main__":
    main()
