"""``python -m reward.train`` that writes down what it is doing: for the proof that kills it.

``python -m tests.marked_reward_training MARKS …`` appends a line to MARKS before and after each
thing that is worth being killed in. Production code knows nothing of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from reward import train as training
from reward.run_folder import RunFolder


def marked(marks: int, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work with a mark when it begins, and one when the rest goes on."""

    def with_marks(*args: Any, **kwargs: Any) -> Any:
        os.write(marks, f"{what}\n".encode())
        found = work(*args, **kwargs)
        os.write(marks, b"between\n")
        return found

    return with_marks


def main() -> None:
    marks = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(marks, b"loading\n")
    for module, name, what in [
        (training, "optimiser_step", "step"),
        (RunFolder, "save_checkpoint", "checkpoint"),
        (RunFolder, "resumable_checkpoint", "resuming"),
        (training, "score_pairs", "scoring"),
        (training, "replace_folder", "model"),
        (RunFolder, "write_result", "result"),
    ]:
        setattr(module, name, marked(marks, what, getattr(module, name)))
    training.main(sys.argv[2:])
    os.write(marks, b"done\n")


if __name__ == "__main__":
    main()
