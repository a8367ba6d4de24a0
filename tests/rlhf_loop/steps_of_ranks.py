"""What test_ppo_ranks and test_step_ranks do with one process and with two.

Real processes that talk by gloo on the CPU; starting them takes most of the time, so one start
serves many runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from reward import ranks
from reward.settings import from_mapping
from rlhf_loop import dpo, ppo, rejection, sft, temperature
from rlhf_loop.config import (
    DPOConfig,
    PPOConfig,
    RejectionConfig,
    SFTConfig,
    TemperatureConfig,
)

STAGES = {
    "ppo": (PPOConfig, ppo.train),
    "sft": (SFTConfig, sft.train),
    "dpo": (DPOConfig, dpo.train),
    "rejection": (RejectionConfig, rejection.run_rejection),
    "temperature": (TemperatureConfig, temperature.sweep),
}


LAUNCHERS = {
    1: [sys.executable],
    2: [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc-per-node", "2"],
}
PATIENCE_SECONDS = 240


def launch(processes: int, runs: list[tuple[str, dict[str, Any]]], plan: Path) -> None:
    """Start so many processes that do the runs; raises AssertionError with what they say."""
    plan.write_text(json.dumps(runs))
    done = subprocess.run(
        [*LAUNCHERS[processes], "-m", "tests.rlhf_loop.steps_of_ranks", str(plan)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def main() -> None:
    """Each run of a JSON file, a stage and its settings, one after the other."""
    runs: list[tuple[str, dict[str, Any]]] = json.loads(Path(sys.argv[1]).read_text())
    with ranks.joined("cpu"):
        for stage, settings in runs:
            config, train = STAGES[stage]
            train(from_mapping(config, settings))


if __name__ == "__main__":
    main()
