"""What the pages show beyond the happy path: intervals, live ends, batches, empty states."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation_app import figures, reward_figures
from annotation_app.models import Annotation, Batch, Checkpoint, Run
from annotation_app.views import rounds
from tests.annotation_app.ended import ended
from tests.annotation_app.rows import open_batch, released_chat_model

pytestmark = pytest.mark.django_db


def test_it_works(as_alice, bob):
    batch = open_batch("safety")
    annotation = Annotation.objects.lease_next(bob, batch)
    annotation.record(choice="a", strength="better", a_safe=True, b_safe=False)
    page = as_alice.get(reverse("batch", args=[batch.pk])).content.decode()
    assert "1 annotator<" in page or "1 annotator." in page or "1 annotator," in page
    row = page.split('<th scope="row">Better</th>')[1].split("</tr>")[0]
    assert row == "<td>1</td><td>0</td><td>0</td>"


def test_a_helpfulness_batch_has_no_safety_table(as_alice):
    batch = open_batch()
    assert "Strength and safety" not in as_alice.get(f"/batches/{batch.pk}").content.decode()


def test_progress_counts_every_annotator_that_a_comparison_needs(as_alice):
    open_batch(overlap=3, comparisons=2)
    Batch.objects.update(overlap=3)
    assert "0 of 6" in as_alice.get(reverse("batches")).content.decode()


def test_many_batches_stand_on_pages_and_cost_the_same(as_alice, django_assert_num_queries):
    for _ in range(27):
        Batch.draft_next("safety")
    with django_assert_num_queries(3):
        first = as_alice.get(reverse("batches")).content.decode()
    assert (first.count("Week "), "Page 1 of 2" in first) == (25, True)
    last = as_alice.get(reverse("batches"), {"page": 2}).content.decode()
    assert (last.count("Week "), "Week 1, safety" in last) == (2, True)
    Batch.objects.filter(week__gt=25).delete()
    assert "Page 1" not in as_alice.get(reverse("batches")).content.decode()


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("running", '<a href="{}">being filled</a>'),
        ("failed", 'not filled: <a href="{}">its run</a> failed'),
        ("cancelled", 'not filled: <a href="{}">its run</a> was cancelled'),
    ],
)
def test_a_draft_says_how_its_filling_stands(as_alice, django_assert_num_queries, state, shown):
    for _ in range(2):
        draft = Batch.draft_next("safety", is_filled=False)
        run = Run.objects.create(kind="sampling", batch=draft, state=state)
    with django_assert_num_queries(3):
        page = as_alice.get(reverse("batches")).content.decode()
    assert shown.format(reverse("run", args=[run.pk])) in page


def test_the_newest_rounds_are_listed_without_what_is_large(
    as_alice, monkeypatch, settings, tmp_path, django_assert_num_queries
):
    settings.STORAGE_ROOT = tmp_path
    for _ in range(3):
        ended(evaluation={"gate": {"passes": True}, "samples": "large"})
    with CaptureQueriesContext(connection) as asked:
        page = as_alice.get(reverse("rounds")).content.decode()
    assert not any('"annotation_app_round"."evaluation"' in it["sql"] for it in asked)
    assert "RLHF-V1" in page
    assert "The newest" not in page
    ended()
    with django_assert_num_queries(len(asked)):
        as_alice.get(reverse("rounds"))
    monkeypatch.setattr(rounds, "MOST", 2)
    page = as_alice.get(reverse("rounds")).content.decode()
    assert ("The newest 2 rounds." in page, "RLHF-V2" in page) == (True, False)


def test_a_rounds_name_and_state_are_read_without_what_is_large(as_alice, settings, tmp_path):
    settings.STORAGE_ROOT = tmp_path
    round_ = ended()
    run = Run.objects.create(kind="ppo", state="succeeded", round=round_)
    Checkpoint.objects.filter(pk=round_.result_id).update(run=run)
    for address in (reverse("runs"), reverse("chat_models"),
                    reverse("lineage", args=[round_.result_id])):  # fmt: skip
        with CaptureQueriesContext(connection) as asked:
            assert round_.name in as_alice.get(address).content.decode()
        joined = [it["sql"] for it in asked if 'OUTER JOIN "annotation_app_round"' in it["sql"]]
        assert joined, address
        assert not any('"annotation_app_round"."evaluation"' in sql for sql in joined), address


def test_an_accuracy_without_interval_is_shown(as_alice):
    known = {"accuracy": 0.5, "count": 2}
    Checkpoint.objects.create(
        kind="safety_reward", name="Safety reward", line="tiny", storage_key="x",
        metrics={**known, "by_strength": {"better": known}},
    )  # fmt: skip
    assert as_alice.get(reverse("rewards")).status_code == 200


def test_weeks_stand_in_order():
    weeks = {f"Week {n}": {"accuracy": 0.5, "count": 2} for n in (10, 2, 1)}
    _, by_batch = reward_figures.report_tables([("r", {"by_batch": weeks})])
    assert [row[0] for row in by_batch.rows] == ["Week 1", "Week 2", "Week 10"]
    shown = [name.partition("<")[0] for name in by_batch.figure["data"][0]["x"]]
    assert shown == ["Week 1", "Week 2", "Week 10"]


def test_a_difference_keeps_both_ends_of_its_interval():
    row = {"name": "safety", "difference": 0.5, "low": 0.2, "high": 0.9}
    drawn = figures.differences([row, {**row, "name": "single pair", "low": None, "high": None}])
    (trace,) = drawn["data"]
    assert trace["y"] == ["safety"]
    assert trace["error_x"]["array"] == pytest.approx([0.4])
    assert trace["error_x"]["arrayminus"] == pytest.approx([0.3])


def test_a_polled_run_asks_for_its_whole_page_only_once_it_has_ended(as_alice):
    start = released_chat_model().checkpoint
    run = Run.queue(Run.Kind.REWARD_TRAINING, {}, {"start": start}, criterion="safety")
    address, live = reverse("run", args=[run.pk]), {"HX-Request": "true"}
    assert "HX-Refresh" not in as_alice.get(address, headers=live).headers
    run.cancel()
    answer = as_alice.get(address, headers=live)
    assert answer.headers["HX-Refresh"] == "true"
    assert "HX-Request" in answer.headers["Vary"]


def test_what_one_has_skipped_is_not_promised_again(client, bob, charlie):
    batch = open_batch(comparisons=1)
    Annotation.objects.lease_next(charlie, batch).skip()
    Annotation.objects.lease_next(bob, batch)
    client.force_login(charlie)
    page = client.get(reverse("annotate_next", args=["helpfulness"])).content.decode()
    assert "judged everything there is for you" in page


def test_an_empty_batch_says_so(as_bob):
    open_batch(comparisons=0)
    page = as_bob.get(reverse("annotate_next", args=["helpfulness"])).content.decode()
    assert "has no comparisons yet" in page


def test_a_flag_keeps_its_reason(as_bob, bob):
    annotation = Annotation.objects.lease_next(bob, open_batch())
    as_bob.post(reverse("flag", args=[annotation.pk]), {"reason": "Garbled text"})
    annotation.refresh_from_db()
    assert (annotation.state, annotation.reason) == ("flagged", "Garbled text")
