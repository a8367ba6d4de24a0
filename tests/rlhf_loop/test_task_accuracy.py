"""Accuracy by log-probability of options: shapes, tokens, figures, the same bits twice."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from demo.facts import SHIPPED
from reward.preferences import MalformedLine
from reward.run_folder import RunFolder
from rlhf_loop.config import Scoring, TaskAccuracyConfig
from rlhf_loop.learning.likelihood import reading
from rlhf_loop.measures.task_files import Document, read_task
from rlhf_loop.policy import load_chat_model, save_chat_model
from rlhf_loop.task_accuracy import (
    Picked,
    TokenPair,
    main,
    option_logprobs,
    option_tokens,
    pick_options,
    task_accuracy,
)
from tests.rlhf_loop.conftest import read_lines
from tests.tiny_models import CONFIGS, tiny_chat_model

STARTER = SHIPPED.parents[1] / "checkpoints" / "starter-a"
LINES = [
    {"query": "How long is the warranty?", "choices": ["Two years.", "By law.", "No."], "gold": 0},
    {"query": "Is it safe?", "choices": ["Switch it off first.", "Yes."], "gold": "1"},
    {"query": "Why?", "choices": ["I cannot help.", "Two years from then."], "gold": 1},
]


@pytest.fixture
def task(tmp_path):
    return write(tmp_path / "facts.jsonl", *LINES)


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def config(chat_model, task, tmp_path):
    return TaskAccuracyConfig(model=chat_model, tasks=(task,), out=tmp_path / "run", device="cpu")


def test_it_works(config):
    result = task_accuracy(config)
    found = result["tasks"]["facts"]
    assert found["count"] == 3
    assert 0 <= found["acc"]["low"] <= found["acc"]["share"] <= found["acc"]["high"] <= 1
    assert len(read_lines(config.out / "task-after-facts.jsonl")) == 3
    assert task_accuracy(config) == result  # a finished run does nothing
    assert RunFolder(config.out).metrics()[-1]["step"] == 2


def test_two_models_are_compared_document_by_document(config, tmp_path):
    other = tiny_chat_model(tmp_path / "other", seed=3)
    found = task_accuracy(replace(config, against=other))["tasks"]["facts"]["acc"]
    assert found["difference"] == pytest.approx(found["after"] - found["before"])
    assert found["won"] - found["lost"] == round(3 * found["difference"])
    same = task_accuracy(replace(config, against=config.model, out=tmp_path / "same"))
    assert same["tasks"]["facts"]["acc_norm"]["difference"] == 0


@pytest.mark.parametrize("architecture", CONFIGS)
def test_log_probabilities_are_those_of_each_row_alone(architecture, tmp_path):
    """A second derivation: one row at a time, no padding, softmax over the whole vocabulary."""
    model, tokenizer = load_chat_model(tiny_chat_model(tmp_path, architecture), "cpu")
    pairs = [
        option_tokens(tokenizer, line["query"], " " + choice)
        for line in LINES for choice in line["choices"]
    ]  # fmt: skip
    expected = []
    for query, option in pairs:
        logits = model(input_ids=torch.tensor([query + option])).logits[0]
        chances = torch.log_softmax(logits.double(), dim=-1)
        places = range(len(query) - 1, len(query) + len(option) - 1)
        expected.append(sum(chances[p, t].item() for p, t in zip(places, option, strict=True)))
    for tokens in (1, 60, 4096):
        found = option_logprobs(model, pairs, tokens)
        assert found == pytest.approx(expected, abs=2e-5)


def test_options_share_their_question(chat_model):
    """Each distinct token goes through the model once, the options' last ones not at all."""
    model, _ = load_chat_model(chat_model, "cpu")
    query, options = list(range(40, 60)), ([70, 71], [80, 81, 82], [90])
    pairs = [TokenPair(query, option) for option in options]
    seen = []
    model.base_model.embed_tokens.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with reading(model):
        tried = len(seen)  # passes by which it is found out what the model can
    option_logprobs(model, pairs, 4096)
    (rows,) = seen[2 * tried :]
    assert rows.numel() == 20 + 1 + 2


# What lm-eval 0.4.13 gives for the first two documents of the shipped task, with starter-a in
# float32 on the CPU, made in an environment of its own: without and with --apply_chat_template.
HARNESS = {
    False: [[-31.3623, -29.9782, -30.4648, -29.8371], [-9.1765, -13.2169, -14.8709, -7.0997]],
    True: [[-5.6937, -4.028, -4.8033, -5.8515], [-3.7157, -3.8701, -4.3988, -3.2941]],
}


@pytest.mark.parametrize("chat", HARNESS)
def test_log_probabilities_are_the_harnesss(chat):
    model, tokenizer = load_chat_model(STARTER, "cpu")
    picked = pick_options(model, tokenizer, read_task(SHIPPED, most=2), Scoring(), chat)
    for item, expected in zip(picked, HARNESS[chat], strict=True):
        assert item.logprobs == pytest.approx(expected, abs=1e-4)


def test_acc_norm_divides_by_the_characters_of_an_option():
    model, tokenizer = load_chat_model(STARTER, "cpu")
    documents = read_task(SHIPPED, most=12)
    picked = pick_options(model, tokenizer, documents, Scoring(), False)
    for item, document in zip(picked, documents, strict=True):
        sizes = [len(choice) for choice in document.choices]
        likely = [p / n for p, n in zip(item.logprobs, sizes, strict=True)]
        assert item.acc == (item.logprobs.index(max(item.logprobs)) == document.gold)
        assert item.acc_norm == (likely.index(max(likely)) == document.gold)
    assert any(item.acc != item.acc_norm for item in picked)


def test_the_same_bits_twice(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    documents = [Document(("Hm?",) * 2, ("Yes.", "No, never."), 0, (4, 10))] * 3
    runs = [pick_options(model, tokenizer, documents, Scoring(), chat) for chat in (False, False)]
    assert runs[0] == runs[1]
    assert runs[0] != pick_options(model, tokenizer, documents, Scoring(), True)


def test_options_are_parted_as_the_harness_parts_them(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    whole = tokenizer.encode("Answer: Two years")
    for query, option in (("Answer:", " Two years"), ("Answer: ", "Two years")):
        pair = option_tokens(tokenizer, query, option)
        assert pair.query == tokenizer.encode("Answer:")
        assert [*pair.query, *pair.option] == whole
    empty = option_tokens(tokenizer, "", "Two years")
    assert empty == ([tokenizer.eos_token_id], tokenizer.encode("Two years"))


@pytest.mark.parametrize(("query", "option"), [("The answer is", "s"), ("Answer", ""), ("", "")])
def test_an_option_without_a_token_of_its_own_is_refused(query, option):
    """Nothing could be asked of it: its text is a part of the query's last token."""
    _, tokenizer = load_chat_model(STARTER, "cpu")
    with pytest.raises(ValueError, match=rf"option '{option}' has no token .* with '{query}'"):
        option_tokens(tokenizer, query, option)


def test_a_model_that_computes_no_numbers_picks_nothing(config, tmp_path):
    model, tokenizer = load_chat_model(config.model, "cpu")
    torch.nn.init.constant_(model.model.norm.weight, 3e38)
    save_chat_model(model, tokenizer, tmp_path / "broken")
    broken = replace(config, model=tmp_path / "broken")
    with pytest.raises(ValueError, match=r"task 'facts': the options .* allowed are finite"):
        task_accuracy(broken)


def test_a_tokenizer_may_have_no_token_at_a_text_s_ends(chat_model):
    _, tokenizer = load_chat_model(chat_model, "cpu")
    expected = option_tokens(tokenizer, "Answer:", " Two years")
    tokenizer.eos_token = None
    assert option_tokens(tokenizer, "Answer:", " Two years") == expected
    with pytest.raises(ValueError, match=r"chat has no token that begins or ends a text, and an"):
        option_tokens(tokenizer, "", "Two years")


def test_what_exceeds_the_context_is_cut_at_the_beginning(chat_model):
    model, tokenizer = load_chat_model(chat_model, "cpu")
    pair = option_tokens(tokenizer, "why " * 400, " Two years")
    context = model.config.max_position_embeddings
    kept = pair.query[-(context + 1 - len(pair.option)) :]
    (found,) = option_logprobs(model, [pair], 4096)
    assert found == option_logprobs(model, [pair._replace(query=kept)], 4096)[0]
    only = TokenPair(pair.query[:1], (pair.query * 2)[: context + 9])  # longer than the context
    assert option_logprobs(model, [only], 4096)[0] < 0


# --- shapes --------------------------------------------------------------------------------------

SHAPES = {
    "hellaswag": (
        {"activity_label": "Roof", "ctx_a": "A man sits.", "ctx_b": "he", "label": "3",
         "endings": ["rips [title] it.", "b  c", "c", "d [step] e"]},
        "Roof: A man sits. He", ("rips. it.", "b c", "c", "d e"), 3,
    ),
    "piqa": (
        {"goal": "Cook an egg", "sol1": "boil it", "sol2": "read it", "label": 0},
        "Question: Cook an egg\nAnswer:", ("boil it", "read it"), 0,
    ),
    "mmlu": (
        {"question": " What is O(n)? ", "subject": "college_computer_science",
         "choices": ["linear", "log", "square", "cube"], "answer": 0},
        "The following are multiple choice questions (with answers) about college computer "
        "science.\n\nWhat is O(n)?\nA. linear\nB. log\nC. square\nD. cube\nAnswer:",
        tuple("ABCD"), 0,
    ),
    "arc": (
        {"question": "Which is hot?", "answerKey": "B",
         "choices": {"text": ["ice", "sun"], "label": ["A", "B"]}},
        "Question: Which is hot?\nAnswer:", ("ice", "sun"), 1,
    ),
    "openbookqa": (
        {"question_stem": "The sun is", "answerKey": "A ".strip(),
         "choices": {"text": ["hot", "cold"], "label": ["A", "B"]}},
        "The sun is", ("hot", "cold"), 0,
    ),
    "sciq": (
        {"support": " Ice melts.", "question": "What melts?", "distractor1": "sun",
         "distractor2": "air", "distractor3": "oil", "correct_answer": "ice"},
        "Ice melts.\nQuestion: What melts?\nAnswer:", ("sun", "air", "oil", "ice"), 3,
    ),
    "boolq": (
        {"passage": "Ice is cold.", "question": "is ice cold", "label": 1},
        "Ice is cold.\nQuestion: is ice cold?\nAnswer:", ("no", "yes"), 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_the_harness(tmp_path, name):
    line, query, choices, gold = SHAPES[name]
    (found,) = read_task(write(tmp_path / "task.jsonl", line))
    assert (set(found.queries), found.choices, found.gold) == ({query}, choices, gold)
    assert found.lengths == tuple(map(len, choices))


def test_winogrande_has_its_options_before_what_is_scored(tmp_path):
    line = {"sentence": "The cup, not the jug, fell as the _ was full.", "option1": "cup",
            "option2": "jug", "answer": "1"}  # fmt: skip
    (found,) = read_task(write(tmp_path / "task.jsonl", line))
    assert found.queries[1] == "The cup, not the jug, fell as the jug"
    assert (found.choices, found.gold) == (("was full.", "was full."), 0)


def test_a_line_that_the_harness_logged_goes_in_word_for_word(tmp_path):
    arguments = {f"gen_args_{i}": {"arg_0": "Q: Hm?\nA:", "arg_1": f" {o}"} for i, o in
                 enumerate(("yes", "no"))}  # fmt: skip
    line = {"doc": {"choices": ["long text", "other"]}, "arguments": arguments, "target": "1"}
    (found,) = read_task(write(tmp_path / "task.jsonl", line))
    assert (found.choices, found.gold, found.lengths) == ((" yes", " no"), 1, (3, 2))
    assert found.is_final
    line["arguments"] = [["Q: Hm?\nA:", " yes"], ["Q: Hm?\nA:", " no"]]
    assert read_task(write(tmp_path / "other.jsonl", line)) == [found]


@pytest.mark.parametrize(("line", "sentence"), [
    ({"text": "x"}, "line 1: the fields is ['text'], allowed is those of a known shape"),
    ({**LINES[0], "gold": 3}, "the right option is 3, allowed is 0 to 2"),
    ({**LINES[0], "gold": -1}, "the right option is -1"),
    ({**LINES[0], "gold": "B"}, "gold is 'B', allowed is a whole number"),
    ({**LINES[0], "choices": ["one"]}, "allowed is two or more"),
    ({**LINES[0], "choices": ["one", " "]}, "allowed is options with a text"),
    ({**LINES[0], "choices": "AB"}, "choices is 'AB', allowed is a list of texts"),
    ({"question": "?", "choices": ["a"], "answerKey": "A"}, "an object of text and label"),
    ({"arguments": [["a"]], "target": 0}, "allowed is a context and an option"),
    ({"arguments": 3, "target": 0}, "allowed is a list or an object of contexts with options"),
    ({"question": "?", "choices": list("abcdefghijk"), "answer": 0}, "allowed is at most 10 texts"),
    ({"question": "?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"},
     "choices.text is ['a', 'b'], allowed is as many texts as labels, 1"),
    ({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}, "with _ for"),
])  # fmt: skip
def test_unusable_lines_are_refused_by_file_and_line(tmp_path, line, sentence):
    with pytest.raises(MalformedLine) as refused:
        read_task(write(tmp_path / "task.jsonl", line))
    assert sentence in str(refused.value)


def test_an_empty_file_and_two_of_a_name_are_refused(config, tmp_path, task, capsys):
    with pytest.raises(ValueError, match="holds no document"):
        read_task(write(tmp_path / "empty.jsonl"))
    flags = ["--model", str(config.model), "--out", str(config.out), "--tasks", str(task)]
    with pytest.raises(SystemExit, match="two task files have the name 'facts'"):
        main([*flags, str(task)])
    main(flags)
    assert "facts acc: " in capsys.readouterr().out


def test_only_the_first_documents(task):
    assert len(read_task(task, most=2)) == 2


def test_picked_travels_through_json():
    picked = Picked([-1.25, -0.5], True, False)
    assert Picked(**json.loads(json.dumps(picked._asdict()))) == picked
