"""What a person sees at the end of a run of each kind: figures by hand from the predictions and the raw rows."""

import contextlib
import functools
import io
import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from rows import quick, text_pairs
from test_objectives import lists, outcomes, pairs, rated, scored, solutions

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.score.report import write_report
from hf_rewardplug.train.summary import print_summary, save_items


def trees() -> list[dict]:
    nodes = [{"text": text, "label": label, "parent": -1} for text, label in (("the cat", 1.0), ("a dog", 0.0))]
    return [{"prompt": f"one small mat {number}", "nodes": nodes} for number in range(4)]


def soft() -> list[dict]:
    shares = [0.9, 0.2, 0.5, 0.6, 0.0, 1.0, 0.5, 0.4]
    return [{**row, "chosen_probability": share} for row, share in zip(pairs(), shares, strict=True)]


CASES = {
    "pairs": ({}, text_pairs(8)),
    "soft": ({}, soft()),
    "ties": ({"loss_type": "rao_kupper"}, pairs(tie=lambda g, i: i % 3 == 0)),
    "lists": ({"loss_type": "plackett_luce"}, lists()),
    "all_pairs": ({"loss_type": "all_pairs"}, lists()),
    "mse": ({"loss_type": "mse"}, scored()),
    "lists, mse": ({"loss_type": "huber"}, lists()),
    "bce": ({"loss_type": "bce"}, scored(graded=True)),
    "attributes": ({"loss_type": "mse", "attributes": ["kind", "brief"]}, rated()),
    "steps": ({}, solutions()),
    "pqm": ({"loss_type": "pqm"}, solutions()),
    "language model": ({"good_token": "y", "bad_token": "n"}, solutions()),
    "outcomes": ({"loss_type": "min_form"}, outcomes()),
    "outcomes, labelled": ({"loss_type": "min_form"}, solutions(soft=True)),
    "trees": ({}, trees()),
}
OF_STEPS = {"steps", "pqm", "language model", "outcomes", "outcomes, labelled", "trees"}


@pytest.fixture(scope="module")
def finished(assets, tmp_path_factory):
    """`finished(case)`: a run of two steps to its end, as `runs.training.run` goes; each once."""
    return functools.cache(lambda case: run_of(case, str(assets / "stories260K"), tmp_path_factory.mktemp("run")))


@pytest.fixture
def run(case, finished) -> SimpleNamespace:
    return finished(case)


def run_of(case: str, model: str, folder: Path, *, streams: bool = False) -> SimpleNamespace:
    """Rows, predictions, metrics, what was printed, items, page."""
    options, rows = CASES[case]
    rows = [{**row, "subset": "ab"[index % 2]} for index, row in enumerate(rows)]
    trainer_class, config_class = (PRMTrainer, PRMConfig) if case in OF_STEPS else (RewardTrainer, RewardConfig)
    args, data = config_class(**quick(folder, max_steps=2, eval_on_start=True, **options)), Dataset.from_list(rows)
    held_out = data.to_iterable_dataset(num_shards=2) if streams else data
    trainer = trainer_class(model, args, train_dataset=data, eval_dataset=held_out)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    output = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.save_metrics("eval", output.metrics)
    save_items(trainer, output)
    with contextlib.redirect_stdout(printed := io.StringIO()):
        print_summary(trainer, output)
    items = [json.loads(line) for line in (folder / "eval_items.jsonl").read_text().splitlines()]
    page = write_report(folder).read_text(encoding="utf-8")
    found = {"rows": rows, "predictions": output.predictions, "metrics": output.metrics, "folder": folder}
    return SimpleNamespace(**found, text=printed.getvalue(), items=items, page=page)


def last(text: str, name: str) -> str:
    """The last column of a line of the table."""
    return next(line.rsplit(maxsplit=1)[1] for line in text.splitlines() if line.strip().startswith(name))


def of(*cases: str):
    return pytest.mark.parametrize("case", cases)


def assert_ends_with(item: dict, completions: list[str]) -> None:
    """The item's texts, together with its prompt; SentencePiece decodes no space before a text."""
    for text, completion in zip(item["completions"], completions, strict=True):
        assert (item["prompt"] + text).replace(" ", "").endswith(completion.replace(" ", ""))


@of(*CASES)
def test_every_kind_ends_in_a_table_examples_a_plot_and_a_page(case, run):
    head, examples = run.text.split("Three held-out examples\n")
    assert "before" in head and last(head, "loss") == f"{run.metrics['eval_loss']:.3f}"
    assert len([line for line in examples.splitlines() if line.startswith("  ") and line[2] != " "]) == 3
    assert "nan" not in run.text and (run.folder / "training.png").stat().st_size > 10_000
    assert '<section id="figures"' in run.page and "Two accuracies" not in run.page
    assert ('<section id="examples"' in run.page) == (case != "trees")
    assert {item["subset"] for item in run.items} == (set() if case == "trees" else {"a", "b"})


@of("pairs", "soft", "ties")
def test_items_of_pairs_have_the_better_one_first(case, run):
    expected = []
    for row, (chosen, rejected) in zip(run.rows, run.predictions.tolist(), strict=True):
        share = 0.5 if row.get("tie") else row.get("chosen_probability", 1.0)
        sides = [(row["chosen"], chosen), (row["rejected"], rejected)]
        if share != 0.5:
            expected.append(sides if share > 0.5 else sides[::-1])
    assert len(run.items) == len(expected) == {"pairs": 8, "soft": 6, "ties": 5}[case]
    for item, sides in zip(run.items, expected, strict=True):
        assert item["scores"] == [reward for _, reward in sides]
        assert_ends_with(item, [completion for completion, _ in sides])
    right = np.mean([sides[0][1] > sides[1][1] for sides in expected])
    assert last(run.text, "accuracy") == f"{right:.3f}" and f"{right:.3f} ± " in run.page
    longer = [(a > b) + 0.5 * (a == b) for a, b in (item["lengths"] for item in run.items)]
    assert last(run.text, '"the longer one wins"') == f"{np.mean(longer):.3f}"
    told = {"pairs": "8 pairs  ", "soft": "8 pairs, 2 of them ties", "ties": "8 pairs, 3 of them ties"}[case]
    assert told in run.text
    assert ("better, tie or worse" in run.text) == ("better, tie or worse" in run.page) == (case == "ties")
    assert {"pairs": "chosen    ...", "soft": "[chosen is better: 0.90]", "ties": "[a tie]"}[case] in run.text


@of("lists", "all_pairs")
def test_items_of_lists_are_their_pairs(case, run):
    expected, best, chance = [], [], []
    for row, rewards in zip(run.rows, run.predictions.tolist(), strict=True):
        ranked = list(zip(row["scores"], rewards, row["completions"], strict=False))
        expected += [sorted(two, reverse=True) for two in combinations(ranked, 2) if two[0][0] != two[1][0]]
        best.append(max(ranked, key=lambda one: one[1])[0] == max(row["scores"]))
        chance.append(row["scores"].count(max(row["scores"])) / len(row["scores"]))
    assert len(expected) == 2 * (1 + 2 + 5 + 3)
    for item, two in zip(run.items, expected, strict=True):
        assert item["scores"] == [reward for _, reward, _ in two]
        assert_ends_with(item, [completion for _, _, completion in two])
    right = np.mean([better[1] > worse[1] for better, worse in expected])
    assert "22 pairs of 8 lists" in run.text and last(run.text, "accuracy of the pairs") == f"{right:.3f}"
    assert last(run.text, "best of its list found") == f"{np.mean(best):.3f}"
    assert last(run.text, "any one of the list") == f"{np.mean(chance):.3f}"
    assert f"{right:.3f} ± " in run.page and "best of its list found" in run.page
    shown = run.text.split("Three held-out examples\n")[1]
    assert [float(line.split("score")[1].split()[0]) for line in shown.splitlines() if " score " in line] == [
        *(1.0, 0.0),
        *(2.0, 2.0, -1.0),
        *(3.0, 1.0, 0.5, 0.5),
    ]


@of("mse", "lists, mse")
def test_scores(case, run):
    texts = [
        (row["prompt"] + completion, score)
        for row in run.rows
        for completion, score in zip(
            row.get("completions") or [row["completion"]], row.get("scores") or [row["score"]], strict=True
        )
    ]
    rewards, scores = run.predictions[:, 0].astype(float), np.array([score for _, score in texts])
    assert [(item["text"], item["scores"]["score"]) for item in run.items] == texts
    assert [item["rewards"] for item in run.items] == [{"score": reward} for reward in rewards]
    squared, absolute = np.mean((rewards - scores) ** 2), np.mean(np.abs(rewards - scores))
    assert f"{len(texts)} completions" in run.text
    for name, value in {
        "squared error": squared,
        "the mean score everywhere": np.mean((scores - scores.mean()) ** 2),
        "absolute error": absolute,
        "correlation": np.corrcoef(rewards, scores)[0, 1],
    }.items():
        assert last(run.text, name) == f"{value:.3f}", name
        assert f"{value:.3f}".replace("-", "−") in run.page, name
    assert f"Of {len(texts)} scores." in run.page and 'id="training_mse"' in run.page


@of("bce")
def test_good_and_bad_completions(case, run):
    p = 1 / (1 + np.exp(-run.predictions[:, 0].astype(float)))
    good = np.array([row["score"] >= 0.5 for row in run.rows])
    assert [item["probabilities"]["score"] for item in run.items] == pytest.approx(p.tolist(), abs=1e-6)
    accuracy = np.mean((p >= 0.5) == good)
    assert last(run.text, "accuracy") == f"{accuracy:.3f}" and f"{accuracy:.3f} ± " in run.page
    assert last(run.text, "the majority outcome everywhere") == f"{max(good.mean(), 1 - good.mean()):.3f}"
    auroc = np.mean([(a > b) + 0.5 * (a == b) for a in p[good] for b in p[~good]])
    assert last(run.text, "AUROC") == f"{auroc:.3f}" and f"{auroc:.3f}" in run.page


@of("attributes")
def test_attributes(case, run):
    for index, name in enumerate(("kind", "brief")):
        pairs_of = [
            (float(out[index]), row["attributes"][name]) for out, row in zip(run.predictions, run.rows, strict=True)
        ]
        rewards, scores = np.array([pair for pair in pairs_of if pair[1] is not None]).T
        assert [(item["rewards"][name], item["scores"][name]) for item in run.items] == pairs_of
        assert last(run.text, f"{name}: squared error") == f"{np.mean((rewards - scores) ** 2):.3f}"
        assert f"<td>{name}</td><td>{len(scores)}</td><td>{np.mean((rewards - scores) ** 2):.3f}</td>" in run.page
    assert "brief not rated" in run.text and "kind 0.5, brief 0.5" in run.page


def p_right(logits) -> np.ndarray:
    logits = np.asarray(logits, dtype=float)
    return 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


@of("steps", "pqm", "language model", "outcomes, labelled")
def test_steps(case, run):
    found, labels = [], []
    for item, row, logits in zip(run.items, run.rows, run.predictions, strict=True):
        p = p_right(logits[: len(row["labels"])])
        assert item["probabilities"] == pytest.approx(p.tolist(), abs=1e-6)
        assert item["labels"] == pytest.approx(row["labels"])
        texts = [item["prompt"], *item["steps"]]
        assert [text.strip() for text in texts] == [row["prompt"], *row["completions"]]
        assert item.get("outcome") == (min(row["labels"]) if case == "outcomes, labelled" else None)
        found += p.tolist()
        labels += row["labels"]
    right = np.array(labels) >= 0.5
    accuracy = np.mean((np.array(found) >= 0.5) == right)
    assert f"{len(labels)} steps of 8 solutions" in run.text
    assert last(run.text, "step accuracy") == f"{accuracy:.3f}" and f"{accuracy:.3f} ± " in run.page
    assert ("token of a right step, of a wrong one" in run.page) == (case == "language model")
    assert last(run.text, "the majority label everywhere") == f"{max(right.mean(), 1 - right.mean()):.3f}"


@of("outcomes", "outcomes, labelled")
def test_outcomes(case, run):
    count = [len(row["completions"]) for row in run.rows]
    worst = np.array([p_right(logits[:n]).min() for logits, n in zip(run.predictions, count, strict=True)])
    good = np.array([float(row["outcome"]) if "outcome" in row else min(row["labels"]) for row in run.rows]) >= 0.5
    accuracy = np.mean((worst >= 0.5) == good)
    assert last(run.text, "outcome, by the worst step") == f"{accuracy:.3f}"
    assert last(run.text, "the majority outcome everywhere") == f"{max(good.mean(), 1 - good.mean()):.3f}"
    assert f"{accuracy:.3f} ± " in run.page and "Calibration of the outcomes" in run.page
    assert ("step accuracy" in run.text) == ("step accuracy" in run.page) == (case != "outcomes")
    if case == "outcomes":
        assert {label for item in run.items for label in item["labels"]} == {-100}
        assert [item["outcome"] for item in run.items] == [float(row["outcome"]) for row in run.rows]
        assert "[outcome: right]" in run.text or "[outcome: wrong]" in run.text


@of("ties", "lists", "attributes", "outcomes")
def test_a_stream_gives_the_same_items(case, finished, assets, tmp_path):
    """Rows of a stream are encoded again each time that they are looked at."""
    streamed = run_of(case, str(assets / "stories260K"), tmp_path, streams=True)
    texts = [text.split("\nModel, ")[0] for text in (streamed.text, finished(case).text)]
    assert texts[0] == texts[1] and streamed.items == finished(case).items
