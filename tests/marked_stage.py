"""A stage of the round that writes down what it is doing: for the proof that kills it.

``python -m tests.marked_stage STAGE MARKS …`` appends a line to MARKS before and after each thing
that is worth being killed in; ``tests.kill_round`` says which. Production code knows nothing of it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from tests.kill_round import STAGES
from tests.marked_reward_training import marked


def main() -> None:
    stage, marks = STAGES[sys.argv[1]], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(marks, b"loading\n")
    module = importlib.import_module(f"rlhf_loop.{stage.command}")
    for what, place in stage.marks.items():
        home, _, name = place.rpartition(".")
        owner = owner_of(home)
        setattr(owner, name, marked(marks, what, getattr(owner, name)))
    module.main(sys.argv[3:])
    os.write(marks, b"done\n")


def owner_of(path: str) -> Any:
    """The module, or the class in one, of that name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        home, _, name = path.rpartition(".")
        return getattr(importlib.import_module(home), name)


if __name__ == "__main__":
    main()
