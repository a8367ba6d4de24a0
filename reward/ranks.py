"""Several processes that train one model: ``torchrun --nproc-per-node 8 -m reward.train …``.

Who is there, who writes the run folder, whose rows are whose, and what ranks tell each other; the
weights between them are ``reward.fsdp``. Every rank takes a part of each step's pairs; losses weigh
by the whole step, so that sums over ranks are what one process computes. A process that no launcher
started is alone: then every function here hands back what it was given, and nothing is sent.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from reward.command import Refused, launched, memory_refused
from reward.data import PairRows
from reward.model import pick_device
from reward.prefix_tree import prefix_tree
from reward.run_folder import RunFolder, die_with_launcher
from reward.settings import Settings

PATIENCE = timedelta(hours=1)  # while the first rank reads or writes a whole model
SLURM = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
}

T = TypeVar("T")

# --- who is there --------------------------------------------------------------------------------


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the processes that the launcher started; gives the device of this one.

    Only the first rank prints. Within another one nothing is joined again. Raises ValueError for an
    incomplete environment, or a device that several ranks cannot share.
    """
    if _launched() == 1:
        yield pick_device(device)
        return
    own = _own_device(device)
    if dist.is_initialized():
        yield own
        return
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    die_with_launcher()
    dist.init_process_group(backend, timeout=PATIENCE)
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    yield own
    dist.barrier()  # nobody closes a connection that another one still uses
    dist.destroy_process_group()


def _launched() -> int:
    """How many processes the launcher started; a plain ``srun`` is asked for its own names."""
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        os.environ.update({name: os.environ[slurm] for name, slurm in SLURM.items()})
    count = launched()
    if count > 1:
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                raise ValueError(f"{count} processes were launched, but {name} is not set")
    return count


def _own_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}; allowed for several ranks are auto, cpu, cuda")
    if pick_device(device).type == "cpu":
        return torch.device("cpu")
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(own)
    return own


def count() -> int:
    """How many processes train this model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the one that writes the run folder."""
    return rank() == 0


# --- the run folder ------------------------------------------------------------------------------


class FollowedFolder(RunFolder):
    """The run folder as the ranks behind the first have it: they write shards, nothing else."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def write_config(self, config: Settings) -> None:
        pass

    def refuse_other(self, config: Settings) -> None:
        pass

    def write_provenance(self, inputs: Mapping[str, Path | None]) -> None:
        pass

    def log_metrics(self, step: int, total: int, **figures: float | int | str | None) -> None:
        pass

    def begin(self) -> None:
        pass

    def rewind_metrics(self, step: int) -> None:
        pass

    def write_result(self, result: Mapping[str, Any]) -> None:
        pass

    def save_checkpoint(self, write: Callable[[Path], object]) -> None:
        new = self.checkpoint.with_name(self.checkpoint.name + ".new")
        write(new)

    def resumable_checkpoint(self) -> Path | None:
        return self.checkpoint if self.checkpoint.exists() else None


def run_folder(path: Path) -> RunFolder:
    """The run folder as this rank may use it."""
    return RunFolder(path) if is_first() else FollowedFolder(path)


def once(
    path: Path,
    config: Settings,
    device: str,
    work: Callable[[RunFolder, torch.device], Mapping[str, Any]],
) -> dict[str, Any]:
    """Do ``work`` in the run folder ``path`` with all ranks; returns its result, which the first
    has stored. Where there is one already it is returned as it is.

    Raises ValueError for another configuration than the folder's, RunFolderBusy.
    """
    with joined(device) as own:
        run = run_folder(path)
        run.once(config, lambda: work(run, own))
        wait()  # until the first has written it
        return run.result() or {}


def together(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """``write`` for a folder that the first rank makes, and puts in its place when all are done."""

    def all_write(folder: Path) -> None:
        wait()
        write(folder)
        wait()

    return all_write


@contextmanager
def explaining(path: Path, config: Settings) -> Iterator[None]:
    """Say why this rank ends also where the others' output does not bury it: in the closing words
    of torchrun, and in the log of the run folder ``path``.
    """
    try:
        with memory_refused(config):
            yield
    except (ValueError, OSError, Refused) as error:
        _explain(error, path)
        raise


def _explain(error: Exception, path: Path) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        get_error_handler().record_exception(error)
    file = RunFolder(path).log_file
    printed = file.exists() and os.path.samestat(file.stat(), os.fstat(sys.stderr.fileno()))
    if path.is_dir() and not printed:
        with file.open("a", encoding="utf-8") as log:
            log.write(f"rank {os.environ.get('RANK')}: {error}\n")


# --- the parts of a step -------------------------------------------------------------------------


def own_rows(count_of_all: int) -> range:
    """Those of so many rows that are this rank's, side by side as they share what they have in
    common; none where there are more ranks than rows."""
    first, last = (count_of_all * number // count() for number in (rank(), rank() + 1))
    return range(first, last)


def own_part(rows: Sequence[PairRows]) -> Sequence[int]:
    """The indices of the pairs that are this rank's to compute."""
    return range(len(rows)) if count() == 1 else divide(rows, count())[rank()]


def divide(rows: Sequence[PairRows], parts: int) -> list[list[int]]:
    """The index of every pair into one of ``parts``, the comparisons of a dialogue into the same,
    so that they share their history, and the distinct tokens of the parts nearly even (largest
    first, each to the lightest: Graham 1969). The same on every rank.
    """
    dialogues: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        dialogues.setdefault(row.pair.root, []).append(index)
    tokens = {root: _distinct_tokens([rows[i] for i in of]) for root, of in dialogues.items()}
    loads = [0] * parts
    divided: list[list[int]] = [[] for _ in range(parts)]
    for root in sorted(dialogues, key=lambda root: -tokens[root]):
        lightest = loads.index(min(loads))
        loads[lightest] += tokens[root]
        divided[lightest] += dialogues[root]
    return [sorted(part) for part in divided]


def _distinct_tokens(rows: Sequence[PairRows]) -> int:
    return len(prefix_tree([t for row in rows for t in (row.chosen, row.rejected)]).tokens)


def summed(*figures: float) -> list[float]:
    """Each figure, summed over the ranks."""
    if count() == 1:
        return list(figures)
    sums = torch.tensor(figures, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def collected(
    own: Sequence[int], figures: Sequence[tuple[float, float]], total: int
) -> list[tuple[float, float]]:
    """Each rank's two ``figures`` for its ``own`` of ``total`` pairs, put together on all."""
    every = torch.zeros(total, 2, dtype=torch.float64)
    every[list(own)] = torch.tensor(figures, dtype=torch.float64).view(-1, 2)
    if count() > 1:
        dist.all_reduce(every)
    return [(first, second) for first, second in every.tolist()]


def largest(figure: float) -> float:
    """The largest of the ranks' figures."""
    if count() == 1:
        return figure
    found = torch.tensor([figure], dtype=torch.float64)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.item()


def put_together(own: Sequence[int], rows: Tensor, total: int) -> Tensor:
    """Each rank's ``rows`` (own, …), its ``own`` of ``total``, as one (total, …) on all."""
    if count() == 1:
        return rows
    every = torch.zeros(total, *rows.shape[1:], dtype=rows.dtype)
    every[list(own)] = rows.cpu()
    dist.all_reduce(every)
    return every.to(rows.device)


def wait() -> None:
    """Until every rank is here."""
    summed(0.0)


def first_then_all(act: Callable[[], T]) -> T:
    """``act`` on every rank, on the others once the first has done it."""
    done = act() if is_first() else None
    wait()
    return act() if done is None else done


def told(value: T, by: int = 0) -> T:
    """What one rank says, on all; anything that JSON holds."""
    if count() == 1:
        return value
    said = json.dumps(value).encode() if rank() == by else b""
    letters = torch.zeros(int(summed(len(said))[0]), dtype=torch.uint8)
    if rank() == by:
        letters = torch.frombuffer(bytearray(said), dtype=torch.uint8)
    dist.broadcast(letters, by)
    heard: T = json.loads(letters.numpy().tobytes())
    return heard


def joined_lists(own: list[T]) -> list[T]:
    """The lists of all ranks as one, in the order of the ranks; anything that JSON holds."""
    return [value for by in range(count()) for value in told(own, by)]


def first_alone(act: Callable[[], T]) -> T | None:
    """What ``act`` returns on the first rank, None on the others, which do not call it.

    Raises ValueError on all of them, with its sentence, where ``act`` raises ValueError or OSError.
    """
    done, refused = None, ""
    if is_first():
        try:
            done = act()
        except (ValueError, OSError) as error:
            refused = str(error)
    refused = told(refused)
    if refused:
        raise ValueError(refused)
    return done
