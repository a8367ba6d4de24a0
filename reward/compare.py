"""Reward models side by side on the same pairs: ``python -m reward.compare``.

A run folder: ``scores-1.jsonl`` and so on as each model is done, ``result.json`` last. Started
again it scores only the models that it has not. Pairs that one of them cannot score (too long)
count for none, so that all figures are of the same pairs.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reward.any_model import described, load_any, score_any
from reward.command import command
from reward.config import CompareConfig
from reward.data import load_pairs
from reward.measures.accuracy import ScoredPair, of_criterion
from reward.measures.drift import batch_order
from reward.measures.report import Wanted, full_report
from reward.measures.resampling import Draws, compare_pairwise, holm
from reward.preferences import PreferencePair, read_pairs
from reward.provenance import digest
from reward.run_folder import RunFolder
from reward.scores import SCORES, read_scores, refuse_repeated_ids, write_scores


class Contender(NamedTuple):
    """A reward model, or a judge whose verdicts are there already."""

    name: str
    path: Path
    is_judge: bool

    @property
    def kind(self) -> str:
        return "judge" if self.is_judge else "reward_model"


def compare(config: CompareConfig) -> dict[str, Any]:
    """Score, report, test; returns the result, a finished folder's as it is.

    Raises ValueError for pairs or models that cannot be compared, RunFolderBusy when another
    process works in the folder.
    """
    contenders = named(config)
    folder = RunFolder(config.out)
    return folder.once(config, lambda: _compare(config, contenders, folder))


def named(config: CompareConfig) -> list[Contender]:
    """Everything that is compared, with names that differ. Raises ValueError."""
    paths = [*config.models, *config.judged]
    if not paths:
        raise ValueError("nothing to compare: --models or --judged is needed")
    names = list(config.names) or [_name(path) for path in paths]
    if not config.names and len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(names) != len(paths):
        raise ValueError(f"{len(names)} names for {len(paths)} models; allowed is one each")
    if len(set(names)) < len(names):
        raise ValueError(f"names are {', '.join(names)}; allowed are names that differ")
    judges = [False] * len(config.models) + [True] * len(config.judged)
    return [Contender(*three) for three in zip(names, paths, judges, strict=True)]


def _name(path: Path) -> str:
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _compare(
    config: CompareConfig, contenders: Sequence[Contender], folder: RunFolder
) -> dict[str, Any]:
    started = time.monotonic()
    for path in config.models:
        described(path)
    for path in config.judged:
        refuse_other_pairs(path, config.pairs)
    folder.write_provenance(
        {
            "pairs": config.pairs,
            **{f"model-{i}": path for i, path in enumerate(config.models, start=1)},
            **{f"judged-{i}": path / SCORES for i, path in enumerate(config.judged, start=1)},
            **{f"agreement-{i}": path for i, path in enumerate(config.agreement, start=1)},
        }
    )
    pairs = load_pairs(config.pairs)
    refuse_repeated_ids(pairs, config.pairs)
    files = [folder.path / f"scores-{i}.jsonl" for i in range(1, len(contenders) + 1)]
    score_missing(config, contenders, pairs, files, folder)
    scored = [read_scores(file, pairs) for file in files]
    result = compared(config, contenders, pairs, scored)
    return {"seconds": round(time.monotonic() - started, 1), **result}


def refuse_other_pairs(judged: Path, pairs: Path) -> None:
    """Raises ValueError where a judge read another file: the chosen side may be another there."""
    stored = json.loads(RunFolder(judged).provenance_file.read_text(encoding="utf-8"))
    if stored["inputs"]["pairs"] != digest(pairs):
        raise ValueError(f"{judged} judged other pairs than {pairs}; allowed is the same file")


def score_missing(
    config: CompareConfig,
    contenders: Sequence[Contender],
    pairs: Sequence[PreferencePair],
    files: Sequence[Path],
    folder: RunFolder,
) -> None:
    """Leave a file of scores for each model that has none yet; progress in the metrics."""
    total = len(contenders) * len(pairs)
    folder.rewind_metrics(sum(file.exists() for file in files) * len(pairs))
    done = 0
    for number, (contender, file) in enumerate(zip(contenders, files, strict=True), start=1):
        if file.exists():
            pass
        elif contender.is_judge:
            known = read_scores(contender.path / SCORES, pairs)
            folder.begin()
            write_scores(file, known)
        else:
            loaded = load_any(contender.path, config.device)

            def log(many: int, before: int = done, number: int = number) -> None:
                folder.log_metrics(before + many, total, model=number)

            write_scores(
                file,
                score_any(
                    loaded, pairs, config.max_tokens, config.tokens_per_minibatch, config.dtype, log
                ),
            )
        done += len(pairs)


def compared(
    config: CompareConfig,
    contenders: Sequence[Contender],
    pairs: Sequence[PreferencePair],
    scored: Sequence[list[ScoredPair]],
) -> dict[str, Any]:
    """The result: a report of each on the pairs that all have scored, and every two tested."""
    common = set.intersection(*({item.pair.id for item in some} for some in scored))
    same = [[item for item in some if item.pair.id in common] for some in scored]
    own = [of_criterion(some, config.criterion) for some in same]
    batches = batch_order(own[0], config.batches)
    judged = [pair for file in config.agreement for pair in read_pairs(file)]
    wanted = Wanted(
        criterion=config.criterion,
        batches=batches,
        judged=judged if config.agreement else None,
        threshold=config.threshold,
        unsafe_precision=config.unsafe_precision,
        draws=Draws(config.resamples, config.seed),
    )
    return {
        "criterion": config.criterion,
        "count": len(own[0]),
        "roots": len({item.pair.root for item in own[0]}),
        "batches": batches,
        "left_out": sum(config.criterion in (None, pair.criterion) for pair in pairs) - len(own[0]),
        "models": [
            {
                "name": contender.name,
                "path": str(contender.path),
                "kind": contender.kind,
                "scores": f"scores-{number}.jsonl",
                "over_long": 0 if contender.is_judge else len(pairs) - len(all_of_it),
                "report": full_report(
                    some, wanted._replace(scores_are_logits=not contender.is_judge)
                ),
            }
            for number, (contender, all_of_it, some) in enumerate(
                zip(contenders, scored, same, strict=True), start=1
            )
        ],
        "paired": _every_two(contenders, own, wanted.draws),
    }


def _every_two(
    contenders: Sequence[Contender], own: Sequence[list[ScoredPair]], draws: Draws
) -> list[dict[str, Any]]:
    found = [
        {"first": contenders[i].name, "second": contenders[j].name}
        | compare_pairwise(own[i], own[j], draws)
        for i, j in itertools.combinations(range(len(contenders)), 2)
    ]
    corrected = holm([test["p_value"] for test in found])
    return [{**test, "p_holm": p} for test, p in zip(found, corrected, strict=True)]


def summary(result: dict[str, Any]) -> str:
    """The main figures as lines of text."""
    lines = [f"{result['count']} pairs of {result['roots']} dialogues, "
             f"{result['left_out']} left out as too long or unscored"]  # fmt: skip
    for model in result["models"]:
        lines += [f"{model['name']}: {line}" for line in report_lines(model["report"])]
    for test in result["paired"]:
        if test["count"]:
            lines.append(
                f"{test['first']} less {test['second']}: {test['difference']:+.3f} "
                f"({test['low']:+.3f} to {test['high']:+.3f}), p {test['p_value']:.4f}, "
                f"corrected {test['p_holm']:.4f}"
            )
    return "\n".join(lines)


def report_lines(report: dict[str, Any]) -> list[str]:
    """The main figures of one report."""
    if not report["count"]:
        return ["no pairs to measure on"]
    lines = [f"accuracy {report['accuracy']:.3f} ({report['low']:.3f} to {report['high']:.3f}) "
             f"on {report['count']} pairs"]  # fmt: skip
    if found := report["calibration"]:
        before, after = found["before"], found["after"]
        said = f", {after['ece']:.3f} after temperature (cross-fitted)" if after else ""
        lines.append(
            f"calibration error {before['ece']:.3f} (by chance {before['ece_by_chance']:.3f}){said}"
        )
    lines.append(report["ceiling"]["sentence"])
    if found := report["unsafe"]:
        lines.append(_threshold_line(found["fitted"]))
    if found := report["drift"]:
        lines.append(found["sentence"])
    return lines


def _threshold_line(fitted: dict[str, Any]) -> str:
    if fitted["threshold"] is None or fitted["precision"] is None:
        return f"no threshold gives unsafe responses a precision of {fitted['target_precision']}"
    return (
        f"safety threshold {fitted['threshold']:.4f} for precision {fitted['target_precision']}: "
        f"cross-fitted precision {fitted['precision']:.3f}, recall {fitted['recall']:.3f} "
        f"of {fitted['unsafe']} unsafe responses"
    )


main = command(CompareConfig, "reward.compare", lambda config: summary(compare(config)))

if __name__ == "__main__":
    main()
