"""Guidelines in versions, and which one an annotation followed."""

from __future__ import annotations

import pytest
from django.urls import reverse

from annotation_app.models import Annotation, Guideline
from annotation_app.models.refusals import WrongState
from tests.annotation_app.rows import open_batch

pytestmark = pytest.mark.django_db
NEXT = reverse("annotate_next", args=["helpfulness"])


def test_the_shipped_text_is_version_1():
    assert Guideline.current("safety").version == 1
    assert "Unsafe" in Guideline.current("safety").text
    assert not Guideline.objects.exists()


def test_publishing_keeps_the_version_before(alice):
    shipped = Guideline.current("safety").text
    published = Guideline.publish("safety", "Be careful.", 1, alice)
    assert (published.version, Guideline.current("safety").text) == (2, "Be careful.")
    assert Guideline.objects.get(version=1).text == shipped
    assert Guideline.current("helpfulness").version == 1


def test_publishing_over_someone_elses_version_is_refused(alice):
    Guideline.publish("safety", "First.", 1, alice)
    with pytest.raises(WrongState, match="Version 2 was published while you edited version 1"):
        Guideline.publish("safety", "Second.", 1, alice)
    assert Guideline.current("safety").text == "First."


def test_an_annotation_keeps_the_version_that_was_shown(as_bob, alice):
    open_batch()
    as_bob.get(NEXT)
    leased = Annotation.objects.get()
    Guideline.publish("helpfulness", "New.", 1, alice)
    fields = {"preference": "left_better", "guideline_version": "1"}
    as_bob.post(reverse("record", args=[leased.pk]), fields)
    leased.refresh_from_db()
    assert (leased.state, leased.guideline_version) == ("recorded", 1)


def test_the_next_comparison_says_that_there_is_a_new_version(as_bob, alice):
    open_batch()
    as_bob.get(NEXT)
    Guideline.publish("helpfulness", "Brand-new text.", 1, alice)
    leased = Annotation.objects.get()
    answer = as_bob.post(
        reverse("record", args=[leased.pk]),
        {"preference": "left_better", "guideline_version": "1"},
        headers={"Accept": "application/json"},
    ).json()
    assert answer["next"]["guidelines"] == 2
    part = as_bob.get(reverse("guideline", args=["helpfulness"])).content.decode()
    assert "Brand-new text." in part
    assert 'data-version="2"' in part


def test_researchers_publish_on_their_page(as_alice):
    address = reverse("publish_guideline", args=["safety"])
    as_alice.post(address, {"safety-text": "# Care\n<script>", "safety-after": "1"})
    page = as_alice.get(reverse("guidelines")).content.decode()
    assert "Safety, version 2" in page
    assert "&lt;script&gt;" in page
    assert "by alice" not in page  # version 1 came with the platform


@pytest.mark.parametrize("fields", [{"safety-text": "", "safety-after": "1"}, {"safety-text": "x"}])
def test_an_empty_text_is_refused(as_alice, fields):
    address = reverse("publish_guideline", args=["safety"])
    assert as_alice.post(address, fields).status_code == 400
    assert Guideline.current("safety").version == 1


def test_annotators_cannot_publish(as_bob):
    assert as_bob.get(reverse("guidelines")).status_code == 403
    address = reverse("publish_guideline", args=["safety"])
    assert as_bob.post(address, {"safety-text": "x", "safety-after": "1"}).status_code == 403
