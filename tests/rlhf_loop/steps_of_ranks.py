"""What test_ppo_ranks does with one process and with two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from reward import ranks
from reward.settings import from_mapping
from rlhf_loop.config import PPOConfig
from rlhf_loop.ppo import train


def main() -> None:
    """Each PPO of a JSON file, one after the other."""
    runs: list[dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    with ranks.joined("cpu"):
        for settings in runs:
            train(from_mapping(PPOConfig, settings))


if __name__ == "__main__":
    main()
