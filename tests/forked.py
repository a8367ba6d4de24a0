"""Commands as processes of their own that begin with torch loaded.

A fork server has loaded it once, so a start takes a tenth of a second and not five: what kills runs
again and again kills more of them. Each is a process like any other, with one thread, and sees
nothing of those before it.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

from reward.run_folder import RunFolder
from rlhf_loop.round import StageFailed

ROOT = Path(__file__).resolve().parent.parent
LOADED = [
    "reward.train", "rlhf_loop.context_distillation", "rlhf_loop.dpo", "rlhf_loop.evaluate",
    "rlhf_loop.ghost_attention", "rlhf_loop.instruction_keeping", "rlhf_loop.ppo",
    "rlhf_loop.rejection", "rlhf_loop.round", "rlhf_loop.sampling", "rlhf_loop.sft",
    "rlhf_loop.task_accuracy", "rlhf_loop.temperature",
    "transformers.models.llama.modeling_llama",
]  # fmt: skip


class Child(NamedTuple):
    """A process that was started."""

    process: ForkServerProcess

    def poll(self) -> int | None:
        """None while it runs; then its exit status, negative where a signal ended it."""
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        """What ``poll`` says when it has ended, or when so many seconds have passed."""
        self.process.join(seconds)
        return self.process.exitcode


def start(module: str, arguments: Sequence[str], log: Path) -> Child:
    """``python -m MODULE ARGUMENTS…`` with its output at the end of the log."""
    process = server().Process(target=_work, args=(module, list(arguments), str(log)))
    process.start()
    return Child(process)


def finish_stage(
    stage: str, command: Sequence[str], folder: RunFolder, **environment: str
) -> dict[str, Any]:
    """What ``rlhf_loop.round.finish_stage`` does, in a process that begins with torch loaded."""
    folder.path.mkdir(parents=True, exist_ok=True)
    status = start(command[2], command[3:], folder.log_file).wait()
    result = folder.result()
    if result is None:
        raise StageFailed(f"stage {stage} ended with status {status}:\n{folder.log_tail()}")
    return result


@cache
def server() -> ForkServerContext:
    """The server, with all loaded; whoever measures seconds calls for it before the first start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    first = context.Process(target=_nothing)
    first.start()
    first.join()
    return context


def _nothing() -> None:
    """What the first process does."""


def _work(module: str, arguments: list[str], log: str) -> None:
    import torch

    torch.set_num_threads(1)
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
