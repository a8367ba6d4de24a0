"""/qualifications/new: researchers publish, read back and close qualifications."""

from __future__ import annotations

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from annotation_app.models import (
    Gate,
    Qualification,
    Skill,
)
from tests.annotation_app.qualifications import (
    document,
    only_gate,
    publish,
    quiz,
    writing,
)
from tests.annotation_app.views.test_qualifications import NEW, text

pytestmark = pytest.mark.django_db


def test_publishing_by_paste_and_by_file(as_alice):
    pasted = json.dumps(document(quiz(2)))
    assert as_alice.post(NEW, {"text": pasted}).status_code == 302
    assert as_alice.post(NEW, {"text": pasted}).status_code == 302
    assert Qualification.objects.count() == 1
    file = SimpleUploadedFile("q.json", ("\ufeff" + json.dumps(document(quiz(3)))).encode())
    as_alice.post(NEW, {"file": file})
    newest = Qualification.objects.open().get()
    assert newest.version == 2
    assert only_gate(newest).questions.count() == 3


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Choose a file or paste a document."),
        ({"text": "{"}, "this is not JSON"),
        ({"file": b"\xff\xfe\x00"}, "q.json is not text in UTF-8."),
        ({"file": b" " * 2_000_001}, "q.json is larger than the allowed 2 MB."),
        ({"file": b'{"skill": 3}'}, "The document: skill is 3; allowed is a text."),
        ({"text": "x" * 2_000_001}, "at most 2000000 characters"),
        ({"text": json.dumps(document(*[{}] * 20))}, "And 30 more."),
    ],
)
def test_bad_documents_leave_nothing(as_alice, fields, sentence):
    if "file" in fields:
        fields = {"file": SimpleUploadedFile("q.json", fields["file"])}
    answer = as_alice.post(NEW, fields)
    assert answer.status_code == 400
    assert sentence in text(answer).replace("&quot;", '"'), text(answer)[:3000]
    assert not Skill.objects.exists()
    assert not Qualification.objects.exists()


def test_a_faulty_file_stands_in_the_field(as_alice):
    answer = as_alice.post(NEW, {"file": SimpleUploadedFile("q.json", b'{"skill": 3}')})
    assert "{&quot;skill&quot;: 3}</textarea>" in text(answer)


def test_the_example_is_offered_and_can_be_stored(as_alice):
    page = as_alice.get(NEW, {"example": "1"})
    example = page.context["form"].initial["text"]
    assert "Help desk qualification" in example
    as_alice.post(NEW, {"text": example})
    assert [g.kind for g in Gate.objects.all()] == ["quiz", "quiz", "comparisons", "writing"]


def test_the_document_comes_back(as_alice, alice):
    made = publish(alice, quiz(2), writing(2, ask=1))
    answer = as_alice.get(reverse("download_qualification", args=[made.pk]))
    assert answer["Content-Disposition"] == 'attachment; filename="english-1.json"'
    as_alice.post(NEW, {"text": answer.content.decode()})
    assert Qualification.objects.count() == 1


def test_closing(as_alice, alice):
    made = publish(alice)
    close = reverse("close_qualification", args=[made.pk])
    assert as_alice.get(close).status_code == 405
    as_alice.post(close)
    assert as_alice.post(close).status_code == 409
    assert "which is closed" in text(as_alice.get(reverse("qualification", args=[made.pk])))
