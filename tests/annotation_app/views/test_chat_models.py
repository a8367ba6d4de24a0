"""/models: every chat model, and the versions against what they were made of."""

from __future__ import annotations

import csv
import io

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation_app.models import Release
from tests.annotation_app.played import begun, played
from tests.annotation_app.rows import released_chat_model
from tests.annotation_app.views.axe import PHONE, fits, violations
from tests.annotation_app.views.conftest import text

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("storage_root")]
ADDRESS = "/models"


def test_it_works(as_alice):
    first, second = played(), played()
    first.mark_released()
    Release.objects.create(checkpoint=first.result)
    second.hold()
    page = text(as_alice.get(ADDRESS))
    assert "nothing is added up over versions" in page
    row = {name: page.split(f"<td>{name}</td>")[1].split("</tr>")[0]
           for name in ("RLHF-V1", "RLHF-V2", "starter")}  # fmt: skip
    assert '<span class="state open">released</span>' in row["RLHF-V1"]
    assert '<span class="state held">Held</span>' in row["RLHF-V2"]
    for name, model in (("RLHF-V1", first.result), ("starter", first.policy)):
        assert reverse("lineage", args=[model.pk]) in row[name]


def test_the_file_has_the_rows_of_the_table(as_alice):
    round_ = played()
    found = list(csv.DictReader(io.StringIO(text(as_alice.get("/models/tables/versions.csv")))))
    wins = round_.evaluation["safety_prompts"]["safety"]["win_rate"]
    assert [(row["Version"], float(row["Safety won"])) for row in found] == [("RLHF-V1", wins)]
    scores = list(
        csv.DictReader(io.StringIO(text(as_alice.get("/models/tables/version-scores.csv"))))
    )
    assert scores[0]["Helpfulness by"] == round_.helpfulness.name
    assert as_alice.get("/models/tables/nonsense.csv").status_code == 404


def test_no_version_yet(as_alice):
    released_chat_model()
    begun()
    page = text(as_alice.get(ADDRESS))
    assert "No round has been evaluated yet" in page
    assert "data-figure" not in page


def test_a_weight_that_is_refused_keeps_the_page(as_alice):
    played()
    release = Release.objects.get()
    answer = as_alice.post(reverse("weigh_release", args=[release.pk]), {"weight": "-1"})
    assert answer.status_code == 400
    assert 'data-figure="versions"' in text(answer)


def test_nobody_else_sees_it(client, bob, rita):
    for who in (bob, rita):
        client.force_login(who)
        assert client.get(ADDRESS).status_code == 403
        assert client.get("/models/tables/versions.csv").status_code == 403


def test_queries_do_not_grow_with_versions(as_alice):
    played()
    as_alice.get(ADDRESS)
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            as_alice.get(ADDRESS)
        counts.append(len(queries))
        played()
        played()
    assert counts[0] == counts[1]
    assert counts[0] <= 6


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_axe_finds(page, live_server, client, alice, scheme):
    for _ in range(3):
        played()
    client.force_login(alice)
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    page.context.add_cookies([{**cookie, "url": live_server.url}])
    page.emulate_media(color_scheme=scheme)
    for size in (PHONE, {"width": 1280, "height": 900}):
        page.set_viewport_size(size)
        page.goto(live_server.url + ADDRESS)
        page.wait_for_function(
            "() => [...document.querySelectorAll('[data-figure]')].every(box => box.data)"
        )
        assert (violations(page), fits(page)) == ([], True), size
