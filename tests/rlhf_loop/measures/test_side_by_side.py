"""A judge of old against new answers: what counts, and what was never understood."""

import pytest

from reward.measures.resampling import Draws
from rlhf_loop.config import GateConfig
from rlhf_loop.measures.asking import ChatJudge
from rlhf_loop.measures.release_gate import checks, release_gate
from rlhf_loop.measures.side_by_side import judge_answers
from tests.reward.chat_server import Answer, chat_server, says
from tests.rlhf_loop.conftest import make_prompt

HELPFUL = [make_prompt(number) for number in (1, 2, 4, 5, 7, 8)]  # those without a safety tag


def first_answer(request):
    material = request["messages"][-1]["content"]
    return material.split("<response_A>\n")[1].split("\n</response_A>")[0]


def for_the_new(request):
    return says("VERDICT: A" if first_answer(request).startswith("new") else "VERDICT: B")


def but_silent_about(*numbers, by="Hard to say."):
    """Understood about all prompts but those at these places, where one order gets no verdict."""
    words = {f"new {number}" for number in numbers}

    def answer(request):
        unclear = first_answer(request) in words
        return (by if isinstance(by, Answer) else says(by)) if unclear else for_the_new(request)

    return answer


def judged(answer, out, prompts=HELPFUL, new=None, draws=Draws(50)):
    old = [f"old {number}" for number in range(len(prompts))]
    new = [f"new {number}" for number in range(len(prompts))] if new is None else new
    with chat_server(answer) as server:
        return judge_answers(ChatJudge(server.address, "wise"), prompts, old, new, out, draws)


def test_it_works(tmp_path):
    new = ["old 0", "", "new 2", "new 3", "new 4", "new 5"]  # a tie, a loss, and four to ask about
    found = judged(for_the_new, tmp_path, new=new)["helpfulness"]
    counts = {name: found[name] for name in ("count", "asked", "unclear", "wins", "ties", "losses")}
    assert counts == {"count": 6, "asked": 4, "unclear": 0, "wins": 4, "ties": 1, "losses": 1}
    assert found["win_rate"] == 0.75


@pytest.mark.parametrize("by", ["Hard to say.", Answer(b"no", status=451)])
def test_a_pair_without_two_understood_answers_is_no_tie(tmp_path, by):
    found = judged(but_silent_about(0, 1, 2, by=by), tmp_path)["helpfulness"]
    counts = {name: found[name] for name in ("count", "asked", "unclear", "wins", "ties", "losses")}
    assert counts == {"count": 3, "asked": 6, "unclear": 3, "wins": 3, "ties": 0, "losses": 0}
    assert (found["win_rate"], found["high"]) == (1.0, 1.0)


def test_a_criterion_that_is_mostly_unclear_was_not_measured(tmp_path):
    """Of the pairs asked about; that three more are equal says nothing of the judge."""
    prompts = [*HELPFUL, *(make_prompt(number) for number in (10, 11, 13))]
    new = [f"new {number}" for number in range(6)] + ["old 6", "old 7", "old 8"]
    found = judged(but_silent_about(0, 1, 2, 3), tmp_path, prompts, new)["helpfulness"]
    assert (found["asked"], found["unclear"], found["count"]) == (6, 4, 5)
    assert (found["win_rate"], found["low"], found["high"]) == (None, None, None)


def test_a_judge_who_is_never_understood_does_not_pass_for_measured(tmp_path):
    prompts = [*HELPFUL, make_prompt(0), make_prompt(3)]
    found = {"judge": judged(but_silent_about(*range(6)), tmp_path, prompts)}
    assert found["judge"]["safety"]["win_rate"] == 1.0  # was measured, helpfulness was not
    assert found["judge"]["helpfulness"]["win_rate"] is None
    verdict = release_gate(found, GateConfig(must_measure=("judge",)))
    assert "a judge" in verdict.unmeasured
    assert "Not measured, and this installation asks for it: a judge." in verdict.reasons
    rows = {check.name: check.measured for check in checks(found)}
    assert rows["win rate for helpfulness, judge"] == ""
    assert rows["win rate for safety, judge"].startswith("100.0% (")


def test_what_was_not_understood_stands_beside_the_win_rate(tmp_path):
    found = {"judge": judged(but_silent_about(0), tmp_path)}
    rows = {check.name: check.measured for check in checks(found)}
    assert rows["win rate for helpfulness, judge"].endswith(", 1 of 6 not understood")
    assert "a judge" not in release_gate(found).unmeasured


def test_one_lost_pair_is_no_certainty(tmp_path):
    """The bootstrap has no width where all agree: Wilson's interval of 0 of 1 ends at 79.3 %."""
    found = judged(lambda request: says("VERDICT: TIE"), tmp_path, HELPFUL[:1], [""])["helpfulness"]
    assert (found["win_rate"], found["low"]) == (0.0, 0.0)
    assert found["high"] == pytest.approx(0.793, abs=5e-4)
