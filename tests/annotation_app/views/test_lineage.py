"""/models/<pk>/lineage: what is behind a checkpoint, on a page."""

from __future__ import annotations

import csv
import io

import pytest
from django.urls import reverse

from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.test_lineage import judged, turned
from tests.annotation_app.views.axe import PHONE, fits, violations

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]


@pytest.fixture
def model(bob, charlie):
    """A chat model from one round on two batches."""
    judged("helpfulness", bob, charlie)
    judged("safety", bob)
    return turned(released_chat_model().checkpoint)


def shown(client, checkpoint) -> str:
    return client.get(reverse("lineage", args=[checkpoint.pk])).content.decode()


def test_it_works(as_alice, model):
    page = shown(as_alice, model)
    assert "<strong>9 annotations</strong> of 6 comparisons in 2 batches, by 2 people" in page
    assert (
        "6 of helpfulness (3 comparisons, 2 people), 3 of safety (3 comparisons, 1 person)" in page
    )
    for batch in ("Week 1, helpfulness", "Week 1, safety"):
        assert f">{batch}</a></th>" in page
    assert page.count('<li id="run-') == 4
    links = page.split('<a href="#')[1:]
    assert len(links) == 14
    for step in links:  # every link down the page leads somewhere
        assert f'id="{step.split(chr(34))[0]}"' in page
    assert reverse("run", args=[model.run_id]) in page


def test_of_a_reward_model(as_alice, model):
    reward = model.run.input("safety")
    assert (
        "What is behind it"
        in as_alice.get(reverse("reward_model", args=[reward.pk])).content.decode()
    )
    page = shown(as_alice, model.run.round.safety)
    assert "Its figures" in page
    assert page.count('<li id="run-') == 1


def test_hashes_are_short_and_whole(as_alice, model):
    model.sha256 = "0123456789abcdef" * 4
    model.save()
    page = shown(as_alice, model)
    assert f'<code class="hash" title="{model.sha256}">{model.sha256}</code>' in page


def test_of_weights_that_were_brought_in(as_alice):
    page = shown(as_alice, released_chat_model().checkpoint)
    assert "nothing is known here about how they were made" in page
    assert "The way to it" not in page


def test_the_file_has_the_batches(as_alice, model):
    answer = as_alice.get(reverse("lineage_batches", args=[model.pk]))
    found = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [(row["Batch"], row["Annotations"], row["Annotators"]) for row in found] == [
        ("Week 1, safety", "3", "1"), ("Week 1, helpfulness", "6", "2"),
    ]  # fmt: skip


def test_nobody_else_sees_it(client, bob, rita, model):
    for name in ("lineage", "lineage_batches"):
        address = reverse(name, args=[model.pk])
        for who in (bob, rita):
            client.force_login(who)
            assert client.get(address).status_code == 403
        client.logout()
        assert client.get(address).status_code == 302


def test_one_that_is_not_there(as_alice):
    assert as_alice.get("/models/999/lineage").status_code == 404
    assert as_alice.get("/models/999/lineage.csv").status_code == 404


def test_queries_do_not_grow_with_comparisons(as_alice, bob, model, django_assert_max_num_queries):
    judged("helpfulness", bob, comparisons=12)
    larger = turned(released_chat_model("other").checkpoint)
    for checkpoint in (model, larger):
        with django_assert_max_num_queries(14):
            shown(as_alice, checkpoint)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_axe_finds(page, live_server, client, alice, model, scheme):
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    for size in (PHONE, {"width": 1280, "height": 900}):
        page.set_viewport_size(size)
        for of in (model, model.run.input("round_policy")):
            page.goto(live_server.url + reverse("lineage", args=[of.pk]))
            assert (violations(page), fits(page)) == ([], True), size
