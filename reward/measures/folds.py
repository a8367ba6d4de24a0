"""Folds of a holdout, for whatever is fitted on it. Standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

FOLDS = 5


def fold(root: str) -> int:
    """The fold that a dialogue root lies in, by its hash: the same in every report."""
    return int.from_bytes(hashlib.sha256(root.encode()).digest()[:8]) % FOLDS


def cross_fitted(roots: Sequence[str]) -> Iterator[tuple[list[int], list[int]]]:
    """For each fold the indices to fit on, all of other folds, and those to measure on.

    Dialogues are never on both sides. Folds without members are left out.
    """
    folds = [fold(root) for root in roots]
    for number in range(FOLDS):
        measured = [i for i, at in enumerate(folds) if at == number]
        fitted = [i for i, at in enumerate(folds) if at != number]
        if measured and fitted:
            yield fitted, measured
