"""Notes to an answer: ratings, reasons and a comment, stored with it on the right sides."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation_app.models import Annotation, Remark
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db
NEXT = reverse("annotate_next", args=["helpfulness"])
NOTE = {
    "left_rating": "6", "right_rating": "2",
    "left_tags": ["creative", "useful", "useful"], "right_tags": ["incorrect"],
    "comment": "Left names the period.\r\nRight does not.",
}  # fmt: skip


def leased(client) -> Annotation:
    client.get(NEXT)
    return Annotation.objects.get(state="leased")


def send(client, annotation: Annotation, verb: str = "record", **fields):
    fields = {"preference": "left_better", **fields}
    return client.post(reverse(verb, args=[annotation.pk]), fields)


@pytest.mark.parametrize("shown_left", ["a", "b"])
def test_it_works(as_bob, shown_left):
    open_batch()
    annotation = leased(as_bob)
    Annotation.objects.update(shown_left=shown_left)
    assert send(as_bob, annotation, **NOTE).status_code == 302
    remark = Remark.objects.get(annotation=annotation)
    sides = [(remark.a_rating, remark.a_tags), (remark.b_rating, remark.b_tags)]
    if shown_left == "b":
        sides.reverse()
    assert sides == [(6, ["useful", "creative"]), (2, ["incorrect"])]
    assert remark.comment == "Left names the period.\nRight does not."


def test_most_answers_come_without(as_bob):
    open_batch()
    empty = dict.fromkeys(("left_rating", "right_rating", "comment"), "")
    send(as_bob, leased(as_bob), **empty | {"comment": "  "})
    assert Annotation.objects.recorded().count() == 1
    assert not Remark.objects.exists()


def test_one_part_is_enough(as_bob):
    open_batch()
    send(as_bob, leased(as_bob), right_rating="7")
    remark = Remark.objects.get()
    assert {remark.a_rating, remark.b_rating} == {None, 7}
    assert (remark.a_tags, remark.b_tags, remark.comment) == ([], [], "")


def test_resubmission_stores_it_once(as_bob):
    open_batch()
    annotation = leased(as_bob)
    for _ in range(2):
        assert send(as_bob, annotation, **NOTE).status_code == 302
    other = send(as_bob, annotation, **NOTE | {"comment": "Something else."})
    assert other.status_code == 409
    assert "The note that you sent with this answer before stands" in other.content.decode()
    assert Remark.objects.get().comment.startswith("Left names")


def test_a_note_whose_write_was_cut_off_comes_with_the_repetition(as_bob):
    """The answer is stored, its note is not, and the page sends both again."""
    open_batch()
    annotation = leased(as_bob)
    send(as_bob, annotation)
    send(as_bob, annotation, **NOTE)
    assert Remark.objects.get().annotation == annotation


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"left_rating": "8"}, "A rating is a whole number from 1 to 7."),
        ({"right_rating": "0"}, "A rating is a whole number from 1 to 7."),
        ({"right_rating": "6.5"}, "A rating is a whole number from 1 to 7."),
        ({"left_tags": ["useful", "<b>"]}, "“&lt;b&gt;” is not one of the reasons."),
        ({"comment": "x" * 2_001}, "at most 2000 characters (it has 2001)"),
    ],
)
def test_what_cannot_be_stored_stores_nothing(as_bob, fields, sentence):
    open_batch()
    annotation = leased(as_bob)
    answer = send(as_bob, annotation, **NOTE | fields)
    page = answer.content.decode()
    assert answer.status_code == 400
    assert sentence in page
    assert 'name="right_tags" value="incorrect" checked' in page
    assert "Right does not." in page or "x" * 2_001 in page
    assert not Remark.objects.exists()
    annotation.refresh_from_db()
    assert annotation.state == "leased"


def test_a_refused_answer_leaves_no_note(client, bob, charlie):
    open_batch()
    client.force_login(bob)
    annotation = leased(client)
    client.force_login(charlie)
    assert send(client, annotation, **NOTE).status_code == 403
    client.force_login(bob)
    annotation.skip()
    assert send(client, annotation, **NOTE).status_code == 409
    assert not Remark.objects.exists()


def test_another_answer_than_the_stored_one_leaves_no_note(as_bob):
    open_batch()
    annotation = leased(as_bob)
    send(as_bob, annotation)
    assert send(as_bob, annotation, preference="right_better", **NOTE).status_code == 409
    assert not Remark.objects.exists()


def test_surplus_keeps_its_note(as_bob, charlie):
    batch = open_batch(comparisons=1)
    annotation = leased(as_bob)
    annotation.release()
    Annotation.objects.lease_next(charlie, batch).record(choice="a", strength="better")
    send(as_bob, annotation, **NOTE)
    assert Remark.objects.get().annotation.state == "surplus"


def test_undo_writes_a_note_of_its_own(as_bob):
    open_batch()
    annotation = leased(as_bob)
    send(as_bob, annotation, **NOTE)
    again = NOTE | {"comment": "On second thoughts."}
    for _ in range(2):
        assert send(as_bob, annotation, "revise", **again).status_code == 302
    old, new = Remark.objects.order_by("pk")
    assert (old.annotation, new.annotation.supersedes) == (annotation, annotation)
    assert (old.comment[:4], new.comment) == ("Left", "On second thoughts.")
    assert Remark.objects.count() == 2


def test_undoing_twice_to_different_answers_is_refused(as_bob):
    open_batch()
    annotation = leased(as_bob)
    send(as_bob, annotation)
    send(as_bob, annotation, "revise", preference="right_better")
    other = send(as_bob, annotation, "revise", preference="left_better", **NOTE)
    assert other.status_code == 409
    assert "To change an answer, undo it." in other.content.decode()
    assert not Remark.objects.exists()


def test_an_answer_without_a_note_never_asks_for_one(as_bob):
    open_batch()
    annotation = leased(as_bob)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        send(as_bob, annotation)
    assert not [query for query in queries if "annotation_app_remark" in query["sql"]]


@pytest.mark.parametrize("values", [{"a_rating": 0}, {"b_rating": 8}])
def test_the_database_refuses_other_ratings(as_bob, values):
    open_batch()
    annotation = leased(as_bob)
    with pytest.raises(IntegrityError), transaction.atomic():
        Remark.objects.create(annotation=annotation, **values)


def test_hostile_comments_are_shown_as_text(as_bob):
    open_batch()
    annotation = leased(as_bob)
    hostile = "</textarea><script>alert(1)</script>"
    answer = as_bob.post(reverse("record", args=[annotation.pk]), {**NOTE, "comment": hostile})
    page = answer.content.decode()
    assert answer.status_code == 400
    assert "&lt;/textarea&gt;&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
