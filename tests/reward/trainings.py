"""What test_ranks does with one process and with several: ``-m tests.reward.trainings FILE``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reward import ranks
from reward import train as training
from reward.config import TrainConfig
from reward.settings import from_mapping


def in_float64() -> None:
    """Models are float64 once loaded, and norms that ask for float32 get it too, from now on."""

    def then_double(load: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
        def load_double(*of: Any) -> tuple[Any, Any]:
            model, tokenizer = load(*of)
            torch.float32 = torch.float64
            torch.set_default_dtype(torch.float64)
            torch.Tensor.float = torch.Tensor.double
            return model.double(), tokenizer

        return load_double

    training.start_from_chat_model = then_double(training.start_from_chat_model)
    training.outline_of_chat_model = then_double(training.outline_of_chat_model)


def main() -> None:
    """Each training of a JSON file, one after the other, float64 the last."""
    trainings: dict[str, dict[str, Any]] = json.loads(Path(sys.argv[1]).read_text())
    with ranks.joined("cpu"):
        for name, settings in trainings.items():
            if name == "float64":
                in_float64()
            training.train(from_mapping(TrainConfig, settings))


if __name__ == "__main__":
    main()
