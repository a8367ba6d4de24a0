"""Ghost Attention on the demo's starter: ``python -m benchmarks.ghost_attention --out DIR``.

The starter has never been told to begin its answers with a word, so it learns that first, from
demonstrations in which the instruction stands in the request that is answered. That is the
baseline. It then writes its own dialogues (``rlhf_loop.ghost_attention``), is fine-tuned on their
last answers, and both are asked whether the instruction of turn 1 still holds at turns 2, 4, 6, 20
(``rlhf_loop.instruction_keeping``): with the words of the dialogues, and with words that stood in
the demonstrations but in no dialogue.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

from demo.answers import Quality, answer
from demo.world import DemoPrompt, Split, prompts
from reward.lines import write_records
from reward.preferences import Message, dialogue_root
from rlhf_loop.config import GhostAttentionConfig, InstructionKeepingConfig, SFTConfig
from rlhf_loop.ghost_attention import build, with_instruction
from rlhf_loop.instruction_keeping import keep
from rlhf_loop.prompts import Prompt, PromptSplit, write_prompts
from rlhf_loop.sft import train

WORDS = ("Sure", "Well", "Now", "Here", "Please", "Yes")
UNSEEN = ("Then",)
WORDING = "Begin every answer with the word {value}."
TERSE = "First word: {value}"
TURNS = (2, 4, 6, 20)


def constraints(path: Path, words: tuple[str, ...]) -> Path:
    """A file with one kind of constraint that takes those words."""
    kind = {"kind": "first word", "instruction": WORDING, "terse": TERSE, "values": words,
            "check": {"pattern": r"^{value}\b"}}  # fmt: skip
    path.write_text(json.dumps({"constraints": [kind]}))
    return path


def benign(split: Split) -> list[Prompt]:
    """The demo world's prompts of a split that deserve an answer, as the loop reads them."""
    found = []
    for prompt in prompts(split):
        if not prompt.is_safety:
            messages = (Message("user", prompt.text),)
            root = dialogue_root(messages)
            found.append(Prompt(prompt.id, root, messages, False, None, PromptSplit(split)))
    return found


def demonstration(asked: list[DemoPrompt], draw: random.Random) -> dict[str, object]:
    """A dialogue about ``asked``. In a third of them no request carries an instruction, in a
    third the last one, in a third every one; what carries one is obeyed."""
    word = draw.choice(WORDS + UNSEEN)
    wording = (WORDING if draw.random() < 0.5 else TERSE).replace("{value}", word)
    sort = draw.choice(("none", "last", "every"))
    messages: list[Message] = []
    for number, prompt in enumerate(asked, start=1):
        carries = sort == "every" or (sort == "last" and number == len(asked))
        request = with_instruction(wording, prompt.text) if carries else prompt.text
        text = answer(prompt, draw.choice((Quality.PARTIAL, Quality.CURT)), draw)
        said = f"{word}. {text}" if carries else text
        messages += [Message("user", request), Message("assistant", said)]
    return {"messages": [message._asdict() for message in messages]}


def demonstrations(path: Path, count: int) -> Path:
    draw = random.Random("demonstrations of first words")
    deserving = [prompt for prompt in prompts("train") if not prompt.is_safety]
    asked = [draw.sample(deserving, draw.randint(1, 2)) for _ in range(count)]
    write_records(path, [demonstration(several, draw) for several in asked])
    return path


def fine_tuned(out: Path, data: Path, model: Path, rate: float, epochs: int) -> Path:
    train(SFTConfig(
        data=(data,), model=model, out=out, device="cpu", learning_rate=rate, epochs=epochs,
        batch=16, warmup_steps=5, checkpoint_every_steps=1000,
    ))  # fmt: skip
    return out / "model"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ghost_attention")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("demo/checkpoints/starter-a"))
    parser.add_argument("--demonstrations", type=int, default=2800)
    parser.add_argument("--dialogues", type=int, default=144)
    parser.add_argument("--longest", type=int, default=6, help="turns of a dialogue at most")
    parser.add_argument("--judged", type=int, default=24, help="dialogues that are judged")
    given = parser.parse_args()
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    prompt_file = out / "prompts.jsonl"
    write_prompts(prompt_file, [*benign("train"), *benign("test")])
    seen = constraints(out / "seen.json", WORDS)
    taught = demonstrations(out / "demonstrations.jsonl", given.demonstrations)
    baseline = fine_tuned(out / "baseline", taught, given.model, 1e-3, 1)
    dialogues = build(GhostAttentionConfig(
        prompts=prompt_file, policy=baseline, out=out / "ghost", constraints=seen, device="cpu",
        dialogues=given.dialogues, longest_turns=given.longest, max_new_tokens=64,
    ))  # fmt: skip
    print(f"{dialogues['dialogues']} of {dialogues['begun']} dialogues, {dialogues['left_out']}")
    after = fine_tuned(
        out / "after", out / "ghost" / "dialogues.jsonl", baseline, 5e-4, 2
    )  # fmt: skip
    for name, file in (("seen", seen), ("unseen", constraints(out / "unseen.json", UNSEEN))):
        found = keep(InstructionKeepingConfig(
            prompts=prompt_file, policy=after, against=baseline, out=out / f"keeping-{name}",
            constraints=file, device="cpu", dialogues=given.judged, turns=TURNS, max_new_tokens=64,
        ))  # fmt: skip
        for turn, entry in found["turns"].items():
            change = entry["change"]
            print(f"{name} words, turn {turn}: {change['before']:.1%} → {change['after']:.1%} "
                  f"(difference {change['low']:+.1%} to {change['high']:+.1%})")  # fmt: skip
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
