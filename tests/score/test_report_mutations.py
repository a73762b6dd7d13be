"""A run's folder that somebody edited, cut off or mixed up: there is a page, or one error that names the file."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import DEEP, STRANGE, mutated, places
from test_report import LOGS, PAIRS, SOLUTIONS

from hf_rewardplug.score.report import write_report

SCORED = [{"text": "t", "rewards": {"a": 1.0, "b": 2.0}, "scores": {"a": 0.5, "b": None}, "subset": "x"}]
OUTCOMES = [
    {**SOLUTIONS[0], "labels": [-100] * 3, "outcome": 1.0},
    {**SOLUTIONS[1], "labels": [-100] * 2, "outcome": 0},
]
PROBABLE = [{"text": "t", "probabilities": {"score": p}, "scores": {"score": s}} for p, s in ((0.2, 1), (0.9, 0))]
DESCRIBED = {
    "kind": "orm",
    "step_separator": "\n",
    "good_token": "+",
    "bad_token": "-",
    "attribute_weights": [1.0, 0.5],
    "calibration": {"mean": 0.0, "std": 1.0, "step": 2},
}
WHOLE = {
    "trainer_state.json": {"global_step": 2, "log_history": LOGS},
    "eval_results.json": {"eval_loss": 0.5, "eval_accuracy": 0.5, "eval_wrong_rate": 0.5, "eval_best_accuracy": 0.5},
    "config.json": {
        "architectures": ["LlamaForSequenceClassification"],
        "model_type": "llama",
        "id2label": {"0": "a", "1": "b"},
        "rewardplug": DESCRIBED,
    },
    "benchmark_x.json": {"name": "x", "figures": {"accuracy": 0.5, "n": 4, "accuracy/Chat": 0.25}},
}
ITEMS = {"pairs": PAIRS, "steps": SOLUTIONS, "scored": SCORED, "outcomes": OUTCOMES, "probable": PROBABLE, "none": []}


@st.composite
def folders(draw):
    """{file: text}, with up to three values changed or taken out, or a file that is cut off."""
    whole = {**WHOLE, "eval_items.jsonl": ITEMS[draw(st.sampled_from(sorted(ITEMS)))]}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(whole)))
        path = draw(st.sampled_from(sorted(places(whole[name]), key=repr)))
        whole[name] = mutated(whole[name], path, draw(STRANGE | st.just(...)) if path else draw(STRANGE))
    texts = {name: json.dumps(value) for name, value in whole.items()}
    if isinstance(whole["eval_items.jsonl"], list):
        texts["eval_items.jsonl"] = "\n".join(map(json.dumps, whole["eval_items.jsonl"]))
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(sorted(texts)))
        texts[name] = draw(st.sampled_from(["", DEEP, "\x00", texts[name][: draw(st.integers(0, len(texts[name])))]]))
    if draw(st.booleans()):
        texts.pop(draw(st.sampled_from(["eval_results.json", "config.json"])), None)
    return texts


def ends_well(texts, folder):
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    try:
        write_report(folder)
    except ValueError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 1200 and any(name in message for name in texts), message


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=folders())
def test_a_mutated_folder_gives_a_page_or_one_line(texts, tmp_path):
    ends_well(texts, tmp_path)


@pytest.mark.parametrize("name", [*WHOLE, "eval_items.jsonl"])
@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '"x"', DEEP, '{"a": ' + "9" * 5000 + "}", "\x00"])
def test_a_file_that_is_something_else(name, text, tmp_path):
    texts = {key: json.dumps(value) for key, value in WHOLE.items()}
    texts["eval_items.jsonl"] = "\n".join(map(json.dumps, PAIRS))
    ends_well({**texts, name: text}, tmp_path)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"rewardplug": "x"}, r"config\.json: rewardplug is 'x'; expected an object"),
        ({"rewardplug": {"calibration": "x"}}, r"rewardplug\.calibration is 'x'; expected an object \{\"mean\""),
        ({"rewardplug": {"calibration": {"mean": 0, "std": math.nan}}}, "rewardplug.calibration is .*nan"),
        ({"rewardplug": {"attribute_weights": ["a"]}}, r"rewardplug\.attribute_weights is \['a'\]"),
        ({"architectures": "LlamaForTokenClassification"}, "architectures is 'LlamaFor.*expected a list"),
        ({"id2label": ["a"]}, "id2label is .*expected an object"),
    ],
)
def test_a_field_of_another_kind_is_named(config, why, tmp_path):
    for name, value in {**WHOLE, "config.json": config}.items():
        (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(ValueError, match=why):
        write_report(tmp_path)
