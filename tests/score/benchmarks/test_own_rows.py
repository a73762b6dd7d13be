"""Benchmarks on rows of one's own: nothing of a row is left out, and what a model can score is scored."""

import pytest

from hf_rewardplug.checks import RefusedRows, RowError
from hf_rewardplug.score.benchmarks import evaluate

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
STEPS = [
    {"prompt": "2+2?", "completions": ["4", "5"], "labels": [True, False]},
    {
        "prompt": "2+2?",
        "completions": ["4"],
        "labels": [True],
        "tools": TOOLS,
        "chat_template_kwargs": {"mood": "calm"},
    },
]
SAMPLES = [
    {"prompt": "2+2?", "completions": ["4", "5"], "correct": [True, False]},
    {"prompt": "2+2?", "completions": ["4", "5"], "correct": [True, False], "tools": TOOLS},
]


class Scorer:
    """Keeps what it is asked for."""

    def __init__(self, kind):
        self.kind, self.asked = kind, []

    def score(self, prompts, completions, *, tools=None, chat_template_kwargs=None):
        self.asked.append((prompts, completions, tools, chat_template_kwargs))
        return [[float(number) for number, _ in enumerate(several)] for several in completions]

    def score_steps(self, prompts, steps, *, tools=None, chat_template_kwargs=None):
        self.asked.append((prompts, steps, tools, chat_template_kwargs))
        return [[0.9 for _ in several] for several in steps]


class Plain:
    kind = "prm"

    def score_steps(self, prompts, steps):
        return [[0.9 for _ in several] for several in steps]


@pytest.mark.parametrize("name", ["steps", "process_bench"])
def test_tools_and_template_arguments_reach_a_process_reward_model(name):
    scorer = Scorer("prm")
    evaluate(scorer, name, data=STEPS)
    ((_, _, tools, kwargs),) = scorer.asked
    assert (tools, kwargs) == ([None, TOOLS], [None, {"mood": "calm"}])
    with pytest.raises(
        RefusedRows, match=r"row 1: column 'tools': `scorer.score_steps` takes no arguments of the chat"
    ):
        evaluate(Plain(), name, data=STEPS)


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_tools_reach_the_scorer_of_samples(kind):
    scorer = Scorer(kind)
    evaluate(scorer, SAMPLES)
    ((_, items, tools, kwargs),) = scorer.asked
    assert kwargs is None and tools == ([None, TOOLS] if kind == "orm" else [None, None, TOOLS, TOOLS])
    assert len(items) == len(tools)


def test_the_rows_of_a_tree_have_their_tools_on_every_path():
    nodes = [{"text": text, "label": 1, "parent": parent} for text, parent in (("a", -1), ("b", 0), ("c", 0))]
    scorer = Scorer("prm")
    evaluate(scorer, [{"prompt": "p", "nodes": nodes, "tools": TOOLS}])
    assert scorer.asked[0][2] == [TOOLS, TOOLS]


@pytest.mark.parametrize("data", [SAMPLES[:1], STEPS[:1]], ids=["best_of_n", "process_bench"])
def test_a_part_of_the_prompt_that_is_not_read_is_an_error(data):
    rows = [{**data[0], "context": "Numbers are to the base of three."}]
    with pytest.raises(ValueError, match=r"column 'context' looks like a part of the prompt.*ignore_columns"):
        evaluate(Scorer("prm"), rows)


def test_what_else_is_not_read_is_told_by_name(caplog):
    rows = [{**SAMPLES[0], "comment": "A hard one.", "id": "7"}]
    assert evaluate(Scorer("orm"), rows).unread == "columns that are not read: comment"
    assert "best_of_n: columns that are not read: comment" in caplog.text
    rows = [{**SAMPLES[0], "context": "Numbers are to the base of three."}]
    assert evaluate(Scorer("orm"), rows, ignore_columns=["context"]).figures["n"] == 1


@pytest.mark.parametrize("empty", ["", " \n"])
def test_a_sample_without_text_is_scored_as_the_scorer_scores_it(empty):
    rows = [{"prompt": "2+2?", "completions": [empty, "4"], "correct": [False, True], "answers": [None, "4"]}]
    for kind in ("orm", "prm"):
        scorer = Scorer(kind)
        figures = evaluate(scorer, rows).figures
        assert figures["rm@2" if kind == "orm" else "rm_min@2"] == 1.0
    assert scorer.asked[0][1] == [[empty], ["4"]]  # a step without text, rated at its separator


def test_a_process_reward_model_rates_the_last_turn_of_a_sample():
    call = {"role": "assistant", "content": "Let me see."}
    result = {"role": "tool", "content": "4"}
    turns = [call, result, {"role": "assistant", "content": "It is 4.\n\nSo 4."}]
    scorer = Scorer("prm")
    evaluate(scorer, [{"prompt": "2+2?", "completions": [turns, "4"], "correct": [True, True]}])
    prompts, steps, *_ = scorer.asked[0]
    assert steps == [["It is 4.", "So 4."], ["4"]]
    assert prompts == [[{"role": "user", "content": "2+2?"}, call, result], "2+2?"]


def test_steps_without_text_are_rated_in_every_benchmark_of_steps():
    rows = [{"prompt": "p", "completions": ["4", ""], "labels": [True, True]}]
    assert evaluate(Scorer("prm"), "steps", data=rows).figures["n"] == 2
    nodes = [{"text": text, "label": 1, "parent": parent} for text, parent in (("a", -1), (" ", 0))]
    assert evaluate(Scorer("prm"), "steps", data=[{"prompt": "p", "nodes": nodes}]).figures["n"] == 2
    rows = [{"prompt": "p", "completions": ["4", ""], "outcome": True}]
    assert evaluate(Scorer("prm"), "steps", data=rows).figures["outcome_accuracy"] == 1.0


def test_arguments_that_the_encoder_sets_are_refused_in_a_row_too():
    from hf_rewardplug.data.canonical import template_arguments

    with pytest.raises(RowError, match="'chat_template_kwargs': has tokenize, which the encoder sets"):
        template_arguments({"chat_template_kwargs": {"tokenize": False, "mood": "calm"}})
