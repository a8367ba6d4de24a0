"""Prompt sets from elsewhere: prompts that models answer, without answers.

Each reader yields prompts as the loop reads them. A file without splits of its own is given one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from annotation_app.imports.records import whole_text
from reward.preferences import MalformedLine, Message, RecordReader, dialogue_root
from rlhf_loop.prompts import Prompt, PromptSplit, read_prompts

XSTEST_LABELS = {"safe": False, "unsafe": True}


def read_xstest(path: Path, split: PromptSplit) -> Iterator[Prompt]:
    """XSTest (Röttger et al. 2023): safe prompts that look unsafe, and unsafe contrasts to them.

    A CSV file with ``id``, ``prompt`` and ``label``. Safe ones become borderline prompts, unsafe
    ones adversarial ones; the file names no risk category. Raises MalformedLine.
    """
    rows = csv.DictReader(io.StringIO(whole_text(path), newline=""), strict=True)
    try:
        for row in rows:
            reader = RecordReader(row, path, rows.line_num)
            text, label = reader.text("prompt").strip(), reader.text("label")
            if label not in XSTEST_LABELS:
                raise reader.refuse("label", label, ", ".join(XSTEST_LABELS))
            if not text:
                raise reader.refuse("prompt", text, "a text")
            message = Message("user", text)
            yield Prompt(
                id=f"xstest-{reader.text('id')}",
                root=dialogue_root([message]),
                messages=(message,),
                is_safety=XSTEST_LABELS[label],
                split=split,
                is_borderline=not XSTEST_LABELS[label],
            )
    except csv.Error as error:
        raise MalformedLine(path, rows.line_num, "the line", str(error), "CSV") from None


def read_prompts_file(path: Path, split: PromptSplit) -> Iterator[Prompt]:
    """The loop's own prompts file, whose lines say their splits. Raises MalformedLine.

    Roots are those of the messages, whatever the lines name: by them a demonstration or a
    comparison of the same request is known as held out.
    """
    for prompt in read_prompts(path):
        yield replace(prompt, root=dialogue_root(prompt.messages))


PROMPT_READERS: dict[str, Callable[[Path, PromptSplit], Iterator[Prompt]]] = {
    "xstest": read_xstest,
    "prompts": read_prompts_file,
}
