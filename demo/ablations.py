"""What each ingredient brings: ``python -m demo.ablations --out FOLDER``.

Three rounds with everything and with one ingredient left out at a time, seed after seed. What an
ingredient has no part in is done once for all, in the first round. Every step is a run folder:
started again it goes on, so the table can be gathered over many sittings, or by several processes
with a seed each; ``--table`` prints what there is so far.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from demo.rounds import INGREDIENTS, Experiment, run
from demo.rounds_report import Version, change, over_seeds, read_versions

EVERYTHING = "everything"
# What a first round without an ingredient has in common with one that has everything: the round's
# own folders by what they begin with. The pool and fresh batches have no part in a first round.
COMPARISONS = ("helpfulness", "safety")
REWARDS = (*COMPARISONS, "reward-")
IN_COMMON = {
    "margin": COMPARISONS,
    "auxiliary": (*COMPARISONS, "reward-helpfulness"),
    "gate": REWARDS,
    "whitening": REWARDS,
    "kl": REWARDS,
    "kl and budget": REWARDS,
    "pool": ("",),
    "fresh batches": ("",),
}


def experiments(out: Path, seeds: Sequence[int], rounds: int, threads: int) -> Iterator[Experiment]:
    """Seed by seed, so that a table of whole seeds stands early."""
    for seed in seeds:
        for name in (EVERYTHING, *INGREDIENTS):
            yield Experiment(
                out=out / f"{name.replace(' ', '-')}-{seed}",
                seed=seed,
                rounds=rounds,
                without=None if name == EVERYTHING else name,
                threads=threads,
            )


def take_what_is_common(everything: Path, experiment: Experiment) -> None:
    """Copy what this experiment would do just as the one with everything has done it."""
    if experiment.without is None or experiment.round(1).exists():
        return
    shutil.copytree(everything / "start", experiment.out / "start", dirs_exist_ok=True)
    temporary = experiment.out / "round-1.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for found in (everything / "round-1").iterdir():
        if found.name.startswith(IN_COMMON[experiment.without]):
            copy = shutil.copytree if found.is_dir() else shutil.copy
            copy(found, temporary / found.name)
    temporary.rename(experiment.round(1))


def table(out: Path, seeds: Sequence[int], rounds: int) -> str:
    """The last version of each ablation beside that with everything, over the finished seeds."""
    last: dict[str, dict[int, Version]] = {}
    for experiment in experiments(out, seeds, rounds, threads=1):
        if (experiment.round(rounds) / "done.json").exists():
            versions, _ = read_versions(experiment.out)
            last.setdefault(experiment.without or EVERYTHING, {})[experiment.seed] = versions[-1]
    lines = [f"after {rounds} rounds, gold means over seeds (change, 95 % interval over prompts)"]
    for name, found in last.items():
        paired = sorted(found.keys() & last.get(EVERYTHING, {}).keys())
        cells = []
        for axis in ("helpfulness", "safety", "refused"):
            mean = statistics.fmean(version.mean(axis) for version in found.values())
            cells.append(f"{axis} {mean:.3f}")
            if name != EVERYTHING and paired:
                with_it = chain.from_iterable(getattr(last[EVERYTHING][s], axis) for s in paired)
                without = chain.from_iterable(getattr(found[s], axis) for s in paired)
                gap = change(list(with_it), list(without))
                cells[-1] += f" ({gap['change']:+.3f}, {gap['low']:+.3f} to {gap['high']:+.3f}"
                changes = [found[s].mean(axis) - last[EVERYTHING][s].mean(axis) for s in paired]
                if len(changes) > 1:
                    between = over_seeds(changes)
                    cells[-1] += f"; over seeds {between['low']:+.3f} to {between['high']:+.3f}"
                cells[-1] += ")"
        without_it = name if name == EVERYTHING else f"without {name}"
        lines.append(f"{without_it}, {len(found)} seeds: {'; '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Leave one ingredient out at a time.")
    parser.add_argument("--out", type=Path, required=True, help="folder; started again it goes on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each command")
    parser.add_argument("--table", action="store_true", help="only print what there is")
    given = parser.parse_args()
    if not given.table:
        for experiment in experiments(given.out, given.seeds, given.rounds, given.threads):
            print(f"== {experiment.out.name}", flush=True)
            take_what_is_common(given.out / f"{EVERYTHING}-{experiment.seed}", experiment)
            run(experiment)
    print(table(given.out, given.seeds, given.rounds))


if __name__ == "__main__":
    main()
