"""Does a run's folder say how it was made? ``python -m rlhf_loop.replay FOLDER --out AGAIN``.

The stages of a round's folder, or the one stage whose folder it is, run again by what its
``config.json`` says, and what comes out is held against what the folder holds, bit for bit:
weights, answers, selections, figures without their times. Before anything runs, every input is held
against its hash in ``provenance.json``. A stage that started from what an earlier one of the same
round had made starts from what that one makes now. The exit status is 0 where all is equal.

Equal bits are promised on the CPU, on the same kind of machine, with as many threads as the
provenance names. What a server at an address answered nobody here can promise: it is compared all
the same. Of a run that went on with other settings of how it computes nobody can promise them
either: a difference there, or in what was made from it, is told and is no fault. Left out: runs of
several processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from reward.command import Refused, command
from reward.preferences import read_json_lines
from reward.provenance import digest
from reward.run_folder import RunFolder
from reward.settings import Settings, from_mapping, to_mapping
from rlhf_loop.config import COMMAND_CONFIGS, ReplayConfig, RoundConfig, inputs_of
from rlhf_loop.round import command_of, finish_stage

THREADS_VARIABLE = "OMP_NUM_THREADS"
NOT_COMPARED = {"config.json", "provenance.json", "log.txt", "lock"}
OF_THE_CLOCK = ("time", "seconds")
SHOWN = 60  # characters of a value that differs


class Different(Refused):
    """A replay came out otherwise."""


class Stage(NamedTuple):
    """One stage as it was run."""

    command: str
    run: RunFolder
    config: Settings
    """Its settings; what lies in the folder that is replayed is named where it lies now."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Raises ValueError where the folder does not say what the run was made of."""
        return _read(self.run.provenance_file)


def replay(config: ReplayConfig) -> dict[str, list[str]]:
    """Run everything again; by stage what differs and where first, nothing where all is equal. Left
    out is a stage that differs where nobody promised that it would not: it is printed.

    Raises ValueError for a folder that cannot be replayed and for inputs that are not what they
    were, StageFailed where a stage does not end.
    """
    stages = recorded_stages(config.run, config.stages)
    if config.out.resolve().is_relative_to(config.run.resolve()):
        raise ValueError(f"{config.out} lies in {config.run}: replay into another folder")
    made = {stage.run.path: _out(config, stage) for stage in stages}
    refuse_other_inputs(stages, made)
    found, unpromised = dict[str, list[str]](), list[Path]()
    for stage in stages:
        again = RunFolder(made[stage.run.path])
        print(f"{stage.command}: {stage.run.path} again in {again.path}", flush=True)
        settings = relocated(stage.config, _of_others(made, stage)) | {"out": str(again.path)}
        if again.result() is None:
            words = command_of(stage.command, settings)
            finish_stage(stage.command, words, again, **_threads(stage))
        elif _read(again.config_file) != settings:
            raise ValueError(f"{again.path} holds another run: replay into another folder")
        for remark in other_circumstances(stage.provenance, _read(again.provenance_file)):
            print(f"{stage.command}: {remark}", flush=True)
        given = inputs_of(stage.config).values()
        differing = list(differences(stage.run.path, again.path, given))
        why = went_on_with(stage.provenance) or _made_from(given, unpromised)
        if differing and why:
            unpromised.append(stage.run.path)
            told = f"{why}, so equal bits are not promised: {'; '.join(differing)}"
            print(f"{stage.command}: {told}", flush=True)
        else:
            found[stage.command] = differing
    return found


# --- what was run ---------------------------------------------------------------------------------


def recorded_stages(folder: Path, wanted: Sequence[str] = ()) -> list[Stage]:
    """The finished stages in a round's folder, those ``wanted`` or all, or the one stage whose
    folder it is. Raises ValueError for any other folder."""
    settings = _read(folder / "config.json")
    if settings.keys() != _names(RoundConfig):
        if wanted:
            raise ValueError(f"{folder} is no round's folder, so it has no stages to choose from")
        return [_stage(folder, {Path(settings.get("out", folder)): folder})]
    names = [name for name in settings["stages"] if name in wanted or not wanted]
    if unknown := [name for name in wanted if name not in names]:
        had = ", ".join(settings["stages"])
        raise ValueError(f"the round in {folder} had no stage {unknown[0]!r}, allowed are {had}")
    return [_stage(folder / name, {Path(settings["out"]): folder}) for name in names]


def _stage(folder: Path, moved: Mapping[Path, Path]) -> Stage:
    settings = _read(folder / "config.json")
    known = [name for name, kind in COMMAND_CONFIGS.items() if _names(kind) == settings.keys()]
    if not known:
        raise ValueError(
            f"{folder / 'config.json'} has the settings of no command here; another version's?"
        )
    run = RunFolder(folder)
    result = run.result()
    if result is None:
        raise ValueError(f"{folder} is not done: there is no result.json to compare with")
    if result.get("ranks", 1) > 1:
        raise ValueError(f"{folder} is the run of {result['ranks']} processes, a replay is one")
    (name,) = known
    kind = COMMAND_CONFIGS[name]
    return Stage(name, run, from_mapping(kind, relocated(from_mapping(kind, settings), moved)))


def _names(kind: type[Settings]) -> set[str]:
    return {field.name for field in fields(kind)}


def _read(file: Path) -> dict[str, Any]:
    """Raises ValueError for a file that is missing or no JSON object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is missing or damaged, and a replay needs it")
    return found


# --- what goes in ---------------------------------------------------------------------------------


def relocated(config: Settings, moved: Mapping[Path, Path]) -> dict[str, Any]:
    """The settings, with every path in a folder that has ``moved`` pointing into its new place."""
    changes: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Path):
            changes[field.name] = str(_moved(value, moved))
        elif isinstance(value, tuple) and any(isinstance(item, Path) for item in value):
            changes[field.name] = [str(_moved(path, moved)) for path in value]
    return to_mapping(config) | changes


def _moved(path: Path, moved: Mapping[Path, Path]) -> Path:
    for old, new in moved.items():
        if path.is_relative_to(old):
            return new / path.relative_to(old)
    return path


def _of_others(made: Mapping[Path, Path], stage: Stage) -> dict[Path, Path]:
    """Where the other stages' folders are made again: what this one reads of them is new."""
    return {old: new for old, new in made.items() if old != stage.run.path}


def _out(config: ReplayConfig, stage: Stage) -> Path:
    return config.out / stage.run.path.relative_to(config.run)


def refuse_other_inputs(stages: Sequence[Stage], made: Mapping[Path, Path]) -> None:
    """Raises ValueError naming every input that is missing or not what it was. What a stage that is
    ``made`` again leaves is compared instead."""
    faults, hashed = [], cache(digest)
    for stage in stages:
        known, others = stage.provenance.get("inputs", {}), _of_others(made, stage)
        for name, path in inputs_of(stage.config).items():
            if _moved(path, others) != path:
                continue
            if name not in known:
                fault = "was not hashed when the run was made, so nobody knows what it was"
            elif not path.exists():
                fault = "is missing"
            elif hashed(path) != known[name]:
                fault = "has changed since the run was made"
            else:
                continue
            faults.append(f"{stage.command}: {name} ({path}) {fault}")
    if faults:
        raise ValueError("\n".join(faults))


def _threads(stage: Stage) -> dict[str, str]:
    """The variable that sets as many threads as the run had."""
    wanted = str(stage.provenance.get("threads"))
    return {THREADS_VARIABLE: wanted} if wanted.isdecimal() else {}


def other_circumstances(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Libraries, code, machine, threads that differ: why bits may."""
    for name in ("commit", "machine", "threads"):
        if was.get(name) != now.get(name):
            yield f"made with {name} {was.get(name)}, replayed with {now.get(name)}"
    versions, others = was.get("versions", {}), now.get("versions", {})
    for name in sorted({*versions, *others}):
        if versions.get(name) != others.get(name):
            yield f"made with {name} {versions.get(name)}, replayed with {others.get(name)}"
    known = was.keys() - {"settings", "later"}
    if any(start.get(name) != was[name] for start in was.get("later", []) for name in known):
        yield "made in several starts, not all with the same code, libraries or threads"


def went_on_with(provenance: Mapping[str, Any]) -> str:
    """With which settings a run went on that it had not begun with; "" where it was with none."""
    starts = [provenance, *provenance.get("later", [])]
    each = [start.get("settings", {}) for start in starts]
    names = [n for n in sorted(set().union(*each)) if any(s.get(n) != each[0].get(n) for s in each)]
    said = [f"{n} {', then '.join(_shown(s.get(n)) for s in each)}" for n in names]
    return f"made with {'; '.join(said)}" if said else ""


def _made_from(given: Collection[Path], unpromised: Sequence[Path]) -> str:
    """What a stage was given that lies in one of the folders; "" where nothing does."""
    found = (path for path in given for folder in unpromised if path.is_relative_to(folder))
    path = next(found, None)
    return f"made from {path}" if path else ""


# --- what comes out -------------------------------------------------------------------------------


def differences(made: Path, again: Path, given: Collection[Path] = ()) -> Iterator[str]:
    """For each file of two run folders that is not the same in both, where it differs first.

    Not compared: the settings, the log, times, attempts, and what was ``given`` in the folder.
    """
    for name in sorted(_files(made, set(given)) | _files(again, set())):
        first, second = made / name, again / name
        if not second.exists():
            yield f"{name} was not made again"
        elif not first.exists():
            yield f"{name} is new"
        elif (where := _difference(name, first, second)) is not None:
            yield f"{name}{where}"


def _files(folder: Path, given: set[Path]) -> set[str]:
    """The names of a run folder's files, as far as they are compared."""
    found = (file for file in folder.rglob("*") if file.is_file())
    kept = (file for file in found if not given & {file, *file.parents})
    return {str(file.relative_to(folder)) for file in kept if not _is_about_the_run(file)}


def _is_about_the_run(file: Path) -> bool:
    """Whether it says how a run folder was written (a judge's lies inside a stage's)."""
    return file.name in NOT_COMPARED and (file.parent / "lock").exists()


def _difference(name: str, first: Path, second: Path) -> str | None:
    """Where two files differ first; None where they do not."""
    if first.read_bytes() == second.read_bytes():
        return None
    if name.endswith(".safetensors"):
        return _first_tensor(first, second)
    if Path(name).name == "result.json":
        was, now = (_without_clock(_read(file)) for file in (first, second))
        return _first_value(was, now)
    if name.endswith(".jsonl"):
        lines = ([record for _, record in read_json_lines(file)] for file in (first, second))
        return _first_line(name, *lines)
    return " is not the same"


def _first_tensor(first: Path, second: Path) -> str:
    was, now = load_file(first), load_file(second)
    for name in sorted(was.keys() | now.keys()):
        if name not in was or name not in now:
            return f", {name} is in one of them only"
        if (was[name].shape, was[name].dtype) != (now[name].shape, now[name].dtype):
            return f", {name} has another shape or type"
        apart = (was[name].double() - now[name].double()).abs()
        if count := int((apart != 0).sum()):
            return f", {name}: {count} of {apart.numel()} numbers, by {apart.max():.3g} at most"
    return " is not the same, though its tensors are"


def _first_line(
    name: str, was: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]
) -> str | None:
    is_metrics = Path(name).name == "metrics.jsonl"
    for number, (old, new) in enumerate(zip(was, now, strict=False), start=1):
        if is_metrics:
            old, new = _without_clock(old), _without_clock(new)
        if (where := _first_value(old, new)) is not None:
            place = f"step {old['step']}" if is_metrics else f"line {number}"
            return f", {place}{where}"
    return None if len(was) == len(now) else f" has {len(now)} lines, had {len(was)}"


def _without_clock(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in figures.items()
        if name.partition("/")[0] not in OF_THE_CLOCK and name != "attempt"
    }


def _first_value(was: Any, now: Any, place: str = "") -> str | None:
    """The first place at which two JSON values differ, and how."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name in sorted(was.keys() | now.keys()):
            if name not in was or name not in now:
                return f"{place}, {name} is {'new' if name in now else 'gone'}"
            if (where := _first_value(was[name], now[name], f"{place}, {name}")) is not None:
                return where
        return None
    if isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for number, pair in enumerate(zip(was, now, strict=True), start=1):
            if (where := _first_value(*pair, f"{place} {number}")) is not None:
                return where
        return None
    return None if was == now else f"{place} is {_shown(now)}, was {_shown(was)}"


def _shown(value: Any) -> str:
    words = json.dumps(value, ensure_ascii=False)
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}…"


# --- the command ----------------------------------------------------------------------------------


def _run(config: ReplayConfig) -> str:
    found = replay(config)
    told = [f"{stage}: {words}" for stage, differing in found.items() for words in differing]
    if told:
        raise Different("\n".join(told))
    return f"equal to the last bit: {', '.join(found)}" if found else ""


_main = command(ReplayConfig, "rlhf_loop.replay", _run)


def main(argv: list[str] | None = None) -> None:
    """The command line; the folder may stand first, without its flag."""
    words = sys.argv[1:] if argv is None else argv
    _main(["--run", *words] if words and not words[0].startswith("-") else words)


if __name__ == "__main__":
    main()
