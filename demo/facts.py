"""Questions about the catalogue with four options each: ``python -m demo.facts``.

A task file of ``rlhf_loop.measures.task_files``, so that a round can be asked whether tuning cost
knowledge. The questions are prompts of the test split; the options are one sentence with four
values, of which one is the product's. The same call gives the same file for ever; it is shipped in
``demo/tasks``.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from demo.answer_wordings import CORE
from demo.answers import renderings
from demo.catalogue import Product, truth, values
from demo.intents import BENIGN_BY_NAME
from demo.world import DemoPrompt, prompts

SHIPPED = Path(__file__).parent / "tasks" / "help_desk_facts.jsonl"
DOCUMENTS = 160
OPTIONS = 4


def documents() -> list[dict[str, Any]]:
    """The documents, all intents with one fact evenly among them."""
    rng = random.Random("demo facts")
    by_intent: dict[str, list[DemoPrompt]] = {}
    for prompt in prompts("test"):
        if not prompt.is_safety and _is_asked(prompt.intent):
            by_intent.setdefault(prompt.intent, []).append(prompt)
    chosen = [
        by_intent[name][number // len(by_intent)]
        for number in range(DOCUMENTS)
        for name in [sorted(by_intent)[number % len(by_intent)]]
    ]
    return [_document(prompt, rng) for prompt in chosen]


def _is_asked(intent: str) -> bool:
    """Whether an answer is one fact, of which there are enough others."""
    core = BENIGN_BY_NAME[intent].core
    return len(core) == 1 and len(values(core[0])) >= OPTIONS


def _document(prompt: DemoPrompt, rng: random.Random) -> dict[str, Any]:
    (slot,) = BENIGN_BY_NAME[prompt.intent].core
    right = truth(prompt.product, slot)
    others = [value for value in values(slot) if value != right]
    stated = [right, *rng.sample(others, OPTIONS - 1)]
    rng.shuffle(stated)
    sentence = _filled(rng.choice(CORE[prompt.intent]), prompt.product)
    return {
        "query": prompt.text,
        "choices": [sentence.replace(f"{{{slot}}}", renderings(slot, v)[0]) for v in stated],
        "gold": stated.index(right),
        "id": prompt.id,
    }


def _filled(sentence: str, product: Product) -> str:
    return sentence.replace("{d}", product.device).replace("{p}", product.name)


def write(path: Path) -> int:
    """Write the task file; returns how many documents it has."""
    found = documents()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(document) + "\n" for document in found), encoding="utf-8")
    return len(found)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.facts", description=__doc__)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    out = parser.parse_args().out
    print(f"{write(out)} questions: {out}")


if __name__ == "__main__":
    main()
