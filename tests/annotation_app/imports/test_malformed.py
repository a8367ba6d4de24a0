"""A line that cannot be read stops the import, says where and why, and nothing is kept."""

from __future__ import annotations

import gzip
import json

import pytest
from django.core.management import CommandError

from annotation_app.imports.importing import CHUNK
from annotation_app.models import (
    Annotation,
    Batch,
    Comparison,
    Dialogue,
    DialogueRoot,
    Person,
    Prompt,
    Response,
)
from tests.annotation_app.imports.files import (
    PANDALM,
    QA_FEEDBACK,
    array,
    hh_rlhf,
    import_file,
    write_array,
    write_lines,
)

pytestmark = pytest.mark.django_db
EVERYTHING = (Batch, Person, DialogueRoot, Dialogue, Prompt, Response, Comparison, Annotation)
TRL = {"prompt": "How long?", "chosen": "Two years.", "rejected": "No."}


def refusal(path, form: str) -> str:
    with pytest.raises(CommandError) as refused:
        import_file(path, form)
    assert [model.__name__ for model in EVERYTHING if model.objects.exists()] == []
    return str(refused.value)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"chosen": "half', 'the line is b\'{"chosen": "half\\n\', allowed is one JSON object'),
        ("[1, 2]", "the line is [1, 2], allowed is one JSON object"),
        ('{"chosen": "Hi", "rejected": ' + "[" * 100_000, "allowed is one JSON object"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hi"}, "rejected is None, allowed is present"),
        ({"chosen": 7, "rejected": ""}, "chosen is 7, allowed is a string"),
        ({"chosen": "Hi", "rejected": "Hi"}, "chosen is 'Hi', allowed is turns of"),
        ({"chosen": "\n\nAssistant: Hi", "rejected": ""}, "the first one Human's"),
        ({"chosen": "\n\nHuman: \x00", "rejected": ""}, "without NUL characters"),
        ('{"chosen": "\\ud800", "rejected": ""}', "half surrogates"),
    ],
)
def test_hh_rlhf(tmp_path, bad, said):
    lines = hh_rlhf(CHUNK + 20)  # the bad line stands after a chunk that was written
    path = write_lines(tmp_path / "hh.jsonl", [*lines[: CHUNK + 10], bad, *lines[CHUNK + 10 :]])
    message = refusal(path, "hh-rlhf")
    assert message.startswith(f"{path}, line {CHUNK + 11}: ")
    assert said in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"annotator2": 3}, "annotator2 is 3, allowed is 0 (tie), 1, 2"),
        ({"annotator2": True}, "annotator2 is True, allowed is a whole number"),
        ({"annotator3": "1"}, "annotator3 is '1', allowed is a whole number"),
        ({"response1": None}, "response1 is None, allowed is a string, true or false"),
        ({"response2": 1.5}, "response2 is 1.5, allowed is a string, true or false"),
        ({"instruction": ["x"]}, "instruction is ['x'], allowed is a string"),
    ],
)
def test_pandalm(tmp_path, change, said):
    items = array(PANDALM)[:20]
    items[16] |= change
    path = write_array(tmp_path / "pandalm.json", items)
    line = 1 + [n for n, text in enumerate(path.read_text().split("\n")) if text == " {"][16]
    assert refusal(path, "pandalm") == f"{path}, record 17, line {line}: {said}"


@pytest.mark.parametrize("field", ["instruction", "input", "response1", "annotator3"])
def test_pandalm_missing_fields(tmp_path, field):
    items = array(PANDALM)[:5]
    del items[3][field]
    message = refusal(write_array(tmp_path / "pandalm.json", items), "pandalm")
    assert f"record 4, line 38: {field} is None, allowed is present" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"preference": [1, 2, 0]}, "preference is [1, 2, 0], allowed is a list of six verdicts"),
        ({"preference": [1, 1, 1, 1, 1, 4]}, "preference is 4, allowed is 0 (tie), 1, 2"),
        ({"preference": [1, 1, 1, 1, 1, False]}, "preference is False, allowed is 0 (tie), 1, 2"),
        ({"prediction 3": True}, "prediction 3 is True, allowed is a string"),
        ({"passages": "text"}, "passages is 'text', allowed is a list"),
        ({"passages": [["title", 2]]}, "passages is ['title', 2], allowed is lists of strings"),
        ({"question": None}, "question is None, allowed is a string"),
    ],
)
def test_qa_feedback(tmp_path, change, said):
    items = array(QA_FEEDBACK)[:5]
    items[2] |= change
    message = refusal(write_array(tmp_path / "qa.json", items), "qa-feedback")
    assert "qa.json, record 3, line " in message
    assert said in message


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"chosen": "x", "rejected": "y"}, "prompt is None, allowed is present where"),
        ({"prompt": "x", "chosen": "y"}, "rejected is None, allowed is present"),
        (TRL | {"prompt": 5}, "prompt is 5, allowed is a string or a list"),
        (TRL | {"prompt": []}, "prompt is [], allowed is a list of {role, content} messages"),
        (TRL | {"chosen": [{"role": "assistant", "content": "x"}]}, "allowed is a string"),
        (TRL | {"prompt": [{"role": "user", "content": "x"}]}, "chosen is 'Two years.', allowed"),
        ({"chosen": [{"role": "ai", "content": ""}], "rejected": []}, "allowed is role system"),
        (TRL | {"strength": "much"}, "strength is 'much', allowed is significantly_better"),
        (TRL | {"criterion": "style"}, "criterion is 'style', allowed is helpfulness, safety"),
        (TRL | {"safety": "a_safe"}, "safety is 'a_safe', allowed is chosen_safe"),
        (TRL | {"share": 2}, "share is 2, allowed is a number from 0 to 1"),
        (TRL | {"source": "s" * 61}, "allowed is at most 60 characters"),
        (TRL | {"verdicts": ["a"]}, "the record is 'a', allowed is a JSON object"),
        (TRL | {"verdicts": [{"annotator": "x", "choice": "c"}]}, "choice is 'c', allowed is a, b"),
        (
            TRL | {"verdicts": [{"annotator": "x", "choice": "a"}] * 2},
            "verdicts is ['x', 'x'], allowed is one verdict of each annotator",
        ),
        (
            TRL | {"verdicts": [{"annotator": "x", "choice": "a", "weight": 2}]},
            "weight is 2.0, allowed is 1",
        ),
        (
            TRL | {"verdicts": [{"annotator": "x" * 121, "choice": "a"}]},
            "allowed is at most 120 characters",
        ),
    ],
)
def test_trl(tmp_path, bad, said):
    path = write_lines(tmp_path / "trl.jsonl", [TRL, bad, TRL | {"prompt": "When?"}])
    message = refusal(path, "trl")
    assert message.startswith(f"{path}, line 2: ")
    assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"instruction": "x"}', 'line 1: the file is \'{"instruction": "x"}\', allowed is a JSON'),
        ("", "line 1: the file is '', allowed is a JSON array of objects"),
        ("[\n ITEM,\n {]\n", "record 2, line 3: the text is ']\\n', allowed is JSON"),
        ("[\n ITEM,\n]\n", "record 2, line 3: the text is ']\\n', allowed is JSON"),
        ("[\n ITEM\n ITEM]", "record 1 (its end), line 3: the text is"),
        ("[\n ITEM\n", "record 1 (its end), line 3: the text is '', allowed is a , or the ]"),
        ("[\n ITEM, 4]", "record 2, line 2: the record is 4, allowed is a JSON object"),
        ("[\n ITEM\n] more", "line 3: the text after the array is 'more', allowed is nothing"),
        (b"[\n\xff]", "line 2: the text is b'\\xff]', allowed is UTF-8"),
    ],
)
def test_an_array_that_breaks_off(tmp_path, text, said):
    path = tmp_path / "pandalm.json"
    item = json.dumps(array(PANDALM)[0])
    path.write_bytes(text if isinstance(text, bytes) else text.replace("ITEM", item).encode())
    assert said in refusal(path, "pandalm")


@pytest.mark.parametrize("form", ["hh-rlhf", "pandalm"])
def test_half_a_gzip_file(tmp_path, form):
    lines = json.dumps(array(PANDALM)) if form == "pandalm" else "\n" * 10
    whole = gzip.compress(lines.encode())
    path = tmp_path / "half.gz"
    path.write_bytes(whole[: len(whole) // 2])
    assert "allowed is whole gzip data" in refusal(path, form)


def test_no_file(tmp_path):
    message = refusal(tmp_path / "none.jsonl", "trl")
    assert message == f"{tmp_path / 'none.jsonl'} cannot be read: No such file or directory."
