"""What speaks for and against a release: the gate's view of a round, as the pages show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from annotation_app.models import Batch, Release, Round
from reward.settings import from_mapping
from rlhf_loop.config import GateConfig
from rlhf_loop.measures.release_gate import Check, GateVerdict, checks, release_gate


class Standing(NamedTuple):
    """A round before its release, and after it."""

    gate: Mapping[str, Any] | None  # what the gate says, None where it was never asked
    checks: list[Check]
    people: list[tuple[str, Mapping[str, Any]]]  # criterion, figures
    batches: list[Batch]  # in which people compare its models
    releases: list[Release]  # the newest first
    current: Release | None
    may_compare: bool


def thresholds(config: Mapping[str, Any]) -> GateConfig:
    """The gate's thresholds of a round with these settings."""
    return from_mapping(GateConfig, config.get("evaluate", {}).get("gate", {}))


def verdict(config: Mapping[str, Any], evaluation: Mapping[str, Any]) -> GateVerdict:
    """What the gate says of these figures under these settings."""
    return release_gate(evaluation, thresholds(config))


def standing(round_: Round) -> Standing:
    """Everything that the decision about a round stands on. Two queries."""
    gate = round_.evaluation.get("gate")
    batches = list(round_.side_by_sides.with_progress().order_by("pk"))
    releases: list[Release] = []
    if round_.result_id is not None:
        releases = list(Release.objects.history().filter(checkpoint=round_.result_id))
    current = next((release for release in releases if release.withdrawn_at is None), None)
    return Standing(
        gate=gate,
        checks=checks(round_.evaluation, thresholds(round_.config)) if gate else [],
        people=list((round_.evaluation.get("people") or {}).items()),
        batches=batches,
        releases=releases,
        current=current,
        may_compare=round_.state in Round.JUDGED_BY_PEOPLE and len(batches) < 2,
    )
