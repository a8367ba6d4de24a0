"""The small form of ``make proof``: annotators at once, killed and late, on both databases."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from benchmarks.annotation_servers.tandem import Tandem
from tests.annotators_at_once import IMPATIENT, prove
from tests.postgresql import postgresql


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_acknowledged_answer_is_there_once(tmp_path, database):
    with ExitStack() as stack:
        url = stack.enter_context(postgresql(durable=True)) if database == "postgresql" else ""
        server = Tandem(tmp_path, url, **IMPATIENT)
        findings = prove(server, annotators=16, answers=5, kills=2)
    assert findings.faults == 0, findings
    assert findings.server_kills == 1
    assert findings.acknowledged > 16 * 5 / 2
