"""What the release gate says of a round, on its page."""

from __future__ import annotations

from html import unescape

import pytest
from django.urls import reverse

from annotation_app.models import Checkpoint, PromptSet, Round
from rlhf_loop.measures.paired_figures import paired
from rlhf_loop.measures.release_gate import release_gate
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.views.axe import PHONE, fits, violations

pytestmark = pytest.mark.django_db


def evaluated(**figures) -> Round:
    chat = released_chat_model("other").checkpoint
    models = {
        criterion: Checkpoint.objects.create(
            kind=f"{criterion}_reward", name=criterion, line="x", storage_key=criterion
        )
        for criterion in ("helpfulness", "safety")
    }
    figures["gate"] = release_gate(figures)._asdict()
    return Round.objects.create(
        name="RLHF-V1", state="evaluated", policy=chat, evaluation=figures,
        prompt_set=PromptSet.objects.create(name="p"), **models,
    )  # fmt: skip


def shown(client, round_: Round) -> str:
    return unescape(client.get(reverse("round", args=[round_.pk])).content.decode())


def group(before, after):
    scores = ("helpfulness", "safety", "combined", "refused", "length_tokens")
    return {"count": 3, **{score: paired(before, after) for score in scores}}


def test_it_works(as_alice):
    found = shown(as_alice, evaluated(all=group([1.0, 2.0, 3.0], [2.0, 3.1, 4.0])))
    assert "Nothing that was measured speaks against a release." in found
    assert "Not measured: refusals of borderline prompts, diversity" in found
    assert "Release</button>" in found


def test_its_reasons_are_sentences_and_people_still_decide(as_alice):
    held = evaluated(all=group([1.0, 2.0, 3.0], [0.0, 1.1, 2.0]))
    Round.objects.update(state="held")
    found = shown(as_alice, held)
    assert "The combined score does not rise: 2.000 → 1.033" in found
    assert "Release all the same</a>" in found


def test_borderline_prompts_have_rows_of_their_own(as_alice):
    figures = {"all": group([1.0, 2.0], [2.0, 3.0]), "borderline_prompts": group([1.0], [2.0])}
    assert "helpfulness, borderline prompts" in shown(as_alice, evaluated(**figures))


def test_a_round_evaluated_before_there_was_a_gate(as_alice):
    round_ = evaluated(all=group([1.0, 2.0], [2.0, 3.0]))
    del round_.evaluation["gate"]
    round_.save()
    assert "Release gate" not in shown(as_alice, round_)


def test_nobody_else_reads_it(as_bob):
    round_ = evaluated(all=group([1.0, 2.0], [2.0, 3.0]))
    assert as_bob.get(reverse("round", args=[round_.pk])).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_on_a_phone(page, live_server, client, alice):
    round_ = evaluated(all=group([1.0, 2.0, 3.0], [0.0, 1.1, 2.0]))
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size(PHONE)
    page.goto(live_server.url + reverse("round", args=[round_.pk]))
    assert "The combined score does not rise" in page.locator("main").inner_text()
    assert (violations(page), fits(page)) == ([], True)
