"""PPO that was killed ends like one that nobody disturbed: the small form of ``make proof``."""

import random
from collections import Counter

from tests.kill_round import prove


def test_kills_change_nothing(tmp_path):
    """In an update, in the writing of a checkpoint, in the writing of the best policy."""
    wanted = Counter(update=1, checkpoint=1, best=1)
    findings = prove(tmp_path / "proof", "ppo, value model", wanted, random.Random())
    assert findings.faults == []
    assert not wanted - findings.kills
