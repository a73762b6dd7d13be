"""Each loss through its trainer, against the textbook formula over plain transformers, one sequence at a time.

Loss, gradient and the evaluation's loss, whatever the micro-batches and the layout.
"""

import math
import random

import pytest
import torch
from datasets import Dataset
from rows import quick, sentence
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
from trl.trainer.reward_trainer import DataCollatorForPreference

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer


@pytest.fixture(scope="session")
def model_path(assets) -> str:
    return str(assets / "stories260K")


# ---- rows ------------------------------------------------------------------------------------------------------------


def pairs(**columns) -> list[dict]:
    """Eight pairs; `columns` are functions of a random generator and the row's index."""
    g = random.Random(0)
    return [
        {
            "prompt": sentence(g, 2, 5) + "\n",
            "chosen": sentence(g, 1, 6),
            "rejected": sentence(g, 7, 9),
            **{name: value(g, index) for name, value in columns.items()},
        }
        for index in range(8)
    ]


def lists() -> list[dict]:
    """Lists of two to four completions, some tied, with weights."""
    g, rows = random.Random(1), []
    for index in range(8):
        scores = [[1.0, 0.0], [2.0, 2.0, -1.0], [0.5, 3.0, 1.0, 0.5], [1.0, 2.0, 3.0]][index % 4]
        completions = [f"{sentence(g, 1, 5)} {number}" for number in range(len(scores))]
        row = {"prompt": sentence(g, 2, 5) + "\n", "completions": completions, "scores": scores}
        rows.append({**row, "weight": [1.0, 0.5, 2.0][index % 3]})
    return rows


def scored(graded: bool = False) -> list[dict]:
    g = random.Random(2)
    return [
        {
            "prompt": sentence(g, 2, 5) + "\n",
            "completion": sentence(g, 1, 6),
            "score": g.random() if graded else g.uniform(-2, 3),
            "weight": float(1 + index % 3),
        }
        for index in range(8)
    ]


def rated() -> list[dict]:
    g = random.Random(3)
    return [
        {
            "prompt": sentence(g, 2, 5) + "\n",
            "completion": sentence(g, 1, 6),
            "attributes": {"kind": g.uniform(0, 4), "brief": None if index % 3 == 0 else g.uniform(0, 4)},
        }
        for index in range(8)
    ]


def solutions(soft: bool = False) -> list[dict]:
    g = random.Random(4)
    rows = []
    for _ in range(8):
        steps = [sentence(g, 1, 5) for _ in range(g.randint(1, 4))]
        labels = [g.random() if soft else float(g.random() < 0.6) for _ in steps]
        rows.append({"prompt": sentence(g, 2, 5), "completions": steps, "labels": labels})
    return rows


def outcomes() -> list[dict]:
    g = random.Random(5)
    return [
        {
            "prompt": sentence(g, 2, 5),
            "completions": [sentence(g, 1, 5) for _ in range(g.randint(1, 4))],
            "outcome": g.random() < 0.5,
        }
        for _ in range(8)
    ]


# ---- the textbook: (losses, weights) of a row, from its rewards ------------------------------------------------------


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


def of_pair(loss):
    def row_loss(row, rewards_of):
        chosen, rejected = (rewards_of(row["prompt"] + row[key])[0] for key in ("chosen", "rejected"))
        weight = row.get("weight", 1.0)
        return [weight * loss(chosen, rejected, row)], [weight]

    return row_loss


def bradley_terry(chosen, rejected, row):
    return -torch.log(sigmoid(chosen - rejected - row.get("margin", 0.0)))


def soft(chosen, rejected, row):
    p = row["chosen_probability"]
    return -p * torch.log(sigmoid(chosen - rejected)) - (1 - p) * torch.log(sigmoid(rejected - chosen))


def smoothed(chosen, rejected, row):
    return soft(chosen, rejected, {"chosen_probability": 0.9})


def hinge(chosen, rejected, row):
    return torch.clamp(row.get("margin", 1.0) - (chosen - rejected), min=0)


def rao_kupper(chosen, rejected, row):
    better, worse = sigmoid(chosen - rejected - 0.5), sigmoid(rejected - chosen - 0.5)
    return -torch.log(1 - better - worse if row["tie"] else better)


def of_list(loss):
    def row_loss(row, rewards_of):
        rewards = [rewards_of(row["prompt"] + completion)[0] for completion in row["completions"]]
        return [row["weight"] * loss(rewards, row["scores"])], [row["weight"]]

    return row_loss


def plackett_luce(rewards, scores):
    loss = 0.0
    for reward, score in zip(rewards, scores, strict=True):
        below = [other for other, other_score in zip(rewards, scores, strict=True) if other_score < score]
        loss = loss - torch.log(torch.exp(reward) / sum(torch.exp(other) for other in [reward, *below]))
    return loss


def all_pairs(rewards, scores):
    ranked = list(zip(rewards, scores, strict=True))
    losses = [-torch.log(sigmoid(a - b)) for a, high in ranked for b, low in ranked if high > low]
    return sum(losses) / len(losses)


def of_scores(loss):
    def row_loss(row, rewards_of):
        targets = list(row["attributes"].values()) if "attributes" in row else [row["score"]]
        outputs = rewards_of(row["prompt"] + row["completion"])
        losses = [loss(y, target) for y, target in zip(outputs, targets, strict=True) if target is not None]
        weight = row.get("weight", 1.0)
        return [weight * sum(losses) / len(losses)], [weight]

    return row_loss


def squared(reward, target):
    return (reward - target) ** 2


def huber(reward, target):
    error = torch.abs(reward - target)
    return error**2 / 2 if error <= 0.7 else 0.7 * (error - 0.35)


def entropy(logit, target):
    return -target * torch.log(sigmoid(logit)) - (1 - target) * torch.log(sigmoid(-logit))


def of_steps(loss):
    def row_loss(row, logits_of):
        logits = logits_of(row)
        return loss([logit[-1] - logit[0] if len(logit) == 2 else logit[0] for logit in logits], row)

    return row_loss


def each_step(weights):
    def loss(values, row):
        weight = [weights[1] * label + weights[0] * (1 - label) for label in row["labels"]]
        each = [entropy(value, label) for value, label in zip(values, row["labels"], strict=True)]
        return [w * one for w, one in zip(weight, each, strict=True)], weight

    return loss


def pqm(values, row):
    zero = torch.zeros(())
    right = [zero, *(value for value, label in zip(values, row["labels"], strict=True) if label == 1)]
    wrong = sum(torch.exp(value + 2.0) for value, label in zip(values, row["labels"], strict=True) if label == 0)
    terms = [
        -torch.log(torch.exp(q) / (sum(torch.exp(before) for before in right[: t + 1]) + wrong))
        for t, q in enumerate(right)
    ]
    return [sum(terms) / len(terms)], [1.0]


def min_form(values, row):
    outcome = float(row["outcome"]) if "outcome" in row else min(row["labels"])
    return [entropy(min(values), outcome)], [1.0]


PAIR_CASES = {
    "bradley_terry": ({}, pairs(), of_pair(bradley_terry)),
    "margin, weight": (
        {},
        pairs(margin=lambda g, i: g.random(), weight=lambda g, i: 0.5 + i % 3),
        of_pair(bradley_terry),
    ),
    "log_exp": ({"loss_type": "log_exp"}, pairs(), of_pair(bradley_terry)),
    "label_smoothing": ({"label_smoothing": 0.1}, pairs(), of_pair(smoothed)),
    "soft": ({}, pairs(chosen_probability=lambda g, i: g.random()), of_pair(soft)),
    "hinge": ({"loss_type": "hinge"}, pairs(weight=lambda g, i: float(i % 2)), of_pair(hinge)),
    "hinge, margin": ({"loss_type": "hinge"}, pairs(margin=lambda g, i: 2 * g.random()), of_pair(hinge)),
    "ties": (
        {"loss_type": "rao_kupper", "tie_threshold": 0.5},
        pairs(tie=lambda g, i: i % 3 == 0),
        of_pair(rao_kupper),
    ),
    "plackett_luce": ({"loss_type": "plackett_luce"}, lists(), of_list(plackett_luce)),
    "all_pairs": ({"loss_type": "all_pairs"}, lists(), of_list(all_pairs)),
    "mse": ({"loss_type": "mse"}, scored(), of_scores(squared)),
    "huber": ({"loss_type": "huber", "huber_delta": 0.7}, scored(), of_scores(huber)),
    "bce": ({"loss_type": "bce"}, scored(graded=True), of_scores(entropy)),
    "attributes": ({"loss_type": "mse", "attributes": ["kind", "brief"]}, rated(), of_scores(squared)),
}
STEP_CASES = {
    "cross_entropy": ({}, solutions(), of_steps(each_step((1, 1)))),
    "soft": ({}, solutions(soft=True), of_steps(each_step((1, 1)))),
    "one label": ({"num_labels": 1}, solutions(soft=True), of_steps(each_step((1, 1)))),
    "class_weights": ({"class_weights": [3.0, 0.5]}, solutions(), of_steps(each_step((3.0, 0.5)))),
    "class_weights, soft, one label": (
        {"class_weights": [3.0, 0.5], "num_labels": 1},
        solutions(soft=True),
        of_steps(each_step((3.0, 0.5))),
    ),
    "pqm": ({"loss_type": "pqm", "pqm_margin": 2.0}, solutions(), of_steps(pqm)),
    "pqm, one label": ({"loss_type": "pqm", "pqm_margin": 2.0, "num_labels": 1}, solutions(), of_steps(pqm)),
    "min_form": ({"loss_type": "min_form"}, outcomes(), of_steps(min_form)),
    "min_form, labelled": ({"loss_type": "min_form"}, solutions(soft=True), of_steps(min_form)),
}
SPLITS = {"8x1": {}, "2x4, padded": {"gradient_accumulation_steps": 4, "prefix_sharing": False}}


def cells(cases, *split: str) -> list[tuple[str, str]]:
    return [(case, "8x1") for case in cases] + [(case, "2x4, padded") for case in split]


# ---- transformers, one sequence at a time ----------------------------------------------------------------------------


def plain(trainer, auto_class):
    model = trainer.model
    loaded = auto_class.from_pretrained(model.name_or_path, num_labels=model.config.num_labels, dtype=model.dtype)
    loaded.load_state_dict(model.state_dict())
    return loaded.eval()


def truth(model, rows, row_loss, score) -> tuple[float, float]:
    """The loss over all rows and the norm of its gradient."""
    model.zero_grad()
    found = [row_loss(row, score) for row in rows]
    loss = sum(one for losses, _ in found for one in losses) / sum(one for _, weights in found for one in weights)
    loss.backward()
    return loss.item(), torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm().item()


def rewards_by(model, tokenizer):
    def score(text):
        ids = tokenizer(text + tokenizer.eos_token)["input_ids"]
        return model.model(torch.tensor([ids])).last_hidden_state[0, -1] @ model.score.weight.T

    return score


def logits_by(model, tokenizer):
    def score(row):
        ids, ends = [tokenizer.bos_token_id, *tokenizer.encode(row["prompt"], add_special_tokens=False)], []
        for step in row["completions"]:
            ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
            ends.append(len(ids) - 1)
        return model(torch.tensor([ids])).logits[0, ends]

    return score


def one_step(folder, split: str, **options) -> dict:
    size = 8 // SPLITS[split].get("gradient_accumulation_steps", 1)
    fixed = {"max_steps": 1, "max_grad_norm": 1e9, "train_sampling_strategy": "sequential"}
    return quick(folder, **fixed, per_device_train_batch_size=size, **SPLITS[split], **options)


def assert_trains_on(trainer, expected: tuple[float, float]) -> None:
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected[0], rel=1e-5)
    trainer.train()
    log = trainer.state.log_history[0]
    assert (log["loss"], log["grad_norm"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("case", "split"), cells(PAIR_CASES, "margin, weight", "ties", "plackett_luce", "attributes"))
def test_completions(case, split, model_path, tmp_path):
    options, rows, row_loss = PAIR_CASES[case]
    args, data = RewardConfig(**one_step(tmp_path, split, **options)), Dataset.from_list(rows)
    trainer = RewardTrainer(model_path, args, train_dataset=data, eval_dataset=data)
    model = plain(trainer, AutoModelForSequenceClassification)
    assert_trains_on(trainer, truth(model, rows, row_loss, rewards_by(model, trainer.processing_class)))


@pytest.mark.parametrize(("case", "split"), cells(STEP_CASES, "class_weights", "pqm", "min_form"))
def test_steps(case, split, model_path, tmp_path):
    options, rows, row_loss = STEP_CASES[case]
    args, data = PRMConfig(**one_step(tmp_path, split, **options)), Dataset.from_list(rows)
    trainer = PRMTrainer(model_path, args, train_dataset=data, eval_dataset=data)
    model = plain(trainer, AutoModelForTokenClassification)
    assert_trains_on(trainer, truth(model, rows, row_loss, logits_by(model, trainer.processing_class)))


def test_a_row_of_weight_two_counts_as_two(model_path, tmp_path):
    rows = pairs(weight=lambda g, i: 2.0 if i < 3 else 1.0)
    bare = [{key: value for key, value in row.items() if key != "weight"} for row in rows]
    losses = []
    for data in (rows, bare[:3] + bare):
        data = Dataset.from_list(data)
        trainer = RewardTrainer(model_path, RewardConfig(**quick(tmp_path)), train_dataset=data, eval_dataset=data)
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_list_is_computed_once(model_path, tmp_path):
    """Four completions share their prompt: the batch holds each token of the trie once."""
    args = RewardConfig(**quick(tmp_path, loss_type="plackett_luce", per_device_train_batch_size=8))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(lists()))
    batch = next(iter(trainer.get_train_dataloader()))
    rows = trainer.train_dataset["completion_ids"][:]
    tries = {tuple(ids[: end + 1]) for row in rows for ids in row for end in range(len(ids))}
    assert batch["input_ids"].shape == (1, len(tries))
    assert len(batch["score_positions"]) == sum(map(len, rows))


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("case", ["weights", "ranked", "scored", "outcomes"])
def test_tokenized_rows_and_streams_give_the_same(case, streams, model_path, tmp_path):
    options, rows = {
        "weights": ({}, pairs(weight=lambda g, i: 0.5 + i % 3, chosen_probability=lambda g, i: g.random())),
        "ranked": ({"loss_type": "plackett_luce"}, lists()),
        "scored": ({"loss_type": "huber", "attributes": ["kind", "brief"]}, rated()),
        "outcomes": ({"loss_type": "min_form"}, outcomes()),
    }[case]
    trainer_class, config_class = (PRMTrainer, PRMConfig) if case == "outcomes" else (RewardTrainer, RewardConfig)
    args, data = config_class(**quick(tmp_path, **options)), Dataset.from_list(rows)
    trainer = trainer_class(model_path, args, train_dataset=data, eval_dataset=data)
    expected = trainer.evaluate()["eval_loss"]
    encoded = trainer.eval_dataset.select_columns(
        [name for name in trainer.training_objective.columns if name in trainer.eval_dataset.column_names]
    )
    for other in (data, encoded):
        other = other.to_iterable_dataset(num_shards=2) if streams else other
        assert trainer.evaluate(other)["eval_loss"] == pytest.approx(expected, rel=1e-5)


# ---- figures by hand -------------------------------------------------------------------------------------------------


def test_predictions_of_lists_and_attributes(model_path, tmp_path):
    seen = []

    def metrics(output):
        seen.append(output)
        return {"pairs": float((output.label_ids != -100).sum())}

    args = RewardConfig(**quick(tmp_path, loss_type="all_pairs", per_device_eval_batch_size=3))
    data = Dataset.from_list(lists())
    trainer = RewardTrainer(model_path, args, train_dataset=data, eval_dataset=data, compute_metrics=metrics)
    found = trainer.evaluate()
    (output,) = seen
    assert output.predictions.shape == output.label_ids.shape == (8, 4)
    assert found["eval_pairs"] == sum(len(row["scores"]) for row in lists())
    rewards, better, best = [], [], []
    model = plain(trainer, AutoModelForSequenceClassification)
    score = rewards_by(model, AutoTokenizer.from_pretrained(model_path))
    with torch.no_grad():
        for row, predicted in zip(lists(), output.predictions, strict=True):
            rewards = [score(row["prompt"] + completion).item() for completion in row["completions"]]
            assert predicted[: len(rewards)].tolist() == pytest.approx(rewards, abs=1e-5)
            ranked = list(zip(rewards, row["scores"], strict=True))
            better += [a > b for a, high in ranked for b, low in ranked if high > low]
            best.append(max(ranked)[1] == max(row["scores"]))
    assert found["eval_accuracy"] == pytest.approx(sum(better) / len(better))
    assert found["eval_best_accuracy"] == pytest.approx(sum(best) / len(best))

    args = RewardConfig(**quick(tmp_path, loss_type="mse", attributes=["kind", "brief"], attribute_weights=[2.0, -1.0]))
    data = Dataset.from_list(rated())
    trainer = RewardTrainer(model_path, args, train_dataset=data, eval_dataset=data)
    output = trainer.predict(data)
    assert output.predictions.shape == output.label_ids.shape == (8, 2)
    kind = output.predictions[:, 0] - output.label_ids[:, 0]
    assert output.metrics["test_kind_mse"] == pytest.approx((kind**2).mean(), rel=1e-5)
    total = output.predictions @ [2.0, -1.0]
    assert output.metrics["test_mean_reward"] == pytest.approx(total.mean(), rel=1e-5)


def test_outcomes_have_figures_and_steps_only_where_they_are_labelled(model_path, tmp_path):
    args = PRMConfig(**quick(tmp_path, loss_type="min_form"))
    sets = {"outcomes": Dataset.from_list(outcomes()), "labelled": Dataset.from_list(solutions())}
    trainer = PRMTrainer(model_path, args, train_dataset=sets["outcomes"], eval_dataset=sets)
    found = trainer.evaluate()
    assert "eval_outcomes_accuracy" not in found
    assert "eval_labelled_accuracy" in found
    model = plain(trainer, AutoModelForTokenClassification)
    logits_of = logits_by(model, trainer.processing_class)
    with torch.no_grad():
        worst = [min(logit[1] - logit[0] for logit in logits_of(row)) >= 0 for row in outcomes()]
    expected = [guess == row["outcome"] for guess, row in zip(worst, outcomes(), strict=True)]
    assert found["eval_outcomes_outcome_accuracy"] == pytest.approx(sum(expected) / 8)


def test_ties_are_no_part_of_accuracy(model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path, loss_type="rao_kupper"))
    rows = pairs(tie=lambda g, i: i % 2 == 0)
    data = Dataset.from_list(rows)
    trainer = RewardTrainer(model_path, args, train_dataset=data, eval_dataset=data)
    output = trainer.predict(data)
    margins = output.predictions[:, 0] - output.predictions[:, 1]
    assert output.metrics["test_accuracy"] == pytest.approx((margins[1::2] > 0).mean())
    outcome = [0 if d > 1 else 2 if d < -1 else 1 for d in margins]  # the most probable one at the threshold 1
    probabilities = [[1 / (1 + math.exp(1 - d)), 1 / (1 + math.exp(1 + d))] for d in margins]
    outcome = [max((a, 0), (1 - a - b, 1), (b, 2))[1] for a, b in probabilities]
    assert output.metrics["test_outcome_accuracy"] == pytest.approx(
        sum(found == (1 if row["tie"] else 0) for found, row in zip(outcome, rows, strict=True)) / 8
    )


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rows", "match"),
    [
        ({}, scored(), "row 0: a scored row gives no pairs. Take loss_type='mse', 'huber' or 'bce'"),
        ({"loss_type": "mse"}, pairs(), "row 0: a preference row gives no scores. Take loss_type='bradley_terry'"),
        ({"loss_type": "plackett_luce"}, scored(), "row 0: a scored row gives no ranked lists"),
        ({"loss_type": "plackett_luce"}, pairs(margin=lambda g, i: 1.0), "'margin': a ranked list has none"),
        ({"loss_type": "bce"}, scored(), "'score': .* is outside \\[0, 1\\]"),
        ({"loss_type": "mse"}, rated(), "no `score`, but attributes: set `attributes=\\['brief', 'kind'\\]`"),
        ({"loss_type": "mse", "attributes": ["kind"]}, scored(), "no `attributes`, only a `score`"),
        ({"loss_type": "mse", "attributes": ["kind", "long"]}, rated(), "no attribute long; the row has kind, brief"),
        ({"loss_type": "mse", "attributes": ["kind"]}, lists(), "a ranked row has one score a completion"),
        ({"loss_type": "hinge"}, pairs(chosen_probability=lambda g, i: 0.7), "'chosen_probability': .*no use for it"),
        ({"loss_type": "rao_kupper"}, pairs(margin=lambda g, i: 0.7), "'margin': .*no use for it"),
        ({}, pairs(chosen_probability=lambda g, i: 1.7), "'chosen_probability': expected a probability"),
        ({}, pairs(weight=lambda g, i: -1.0), "'weight': expected a number of 0 or more"),
        ({}, pairs(tie=lambda g, i: 1), "'tie': expected True or False"),
        ({}, pairs(tie=lambda g, i: True), "No example is left"),
        ({}, outcomes(), "an outcome row cannot train an outcome reward model. Use PRMTrainer"),
    ],
)
def test_data_that_do_not_fit_the_loss(options, rows, match, model_path, tmp_path):
    with pytest.raises(ValueError, match=match):
        RewardTrainer(model_path, RewardConfig(**quick(tmp_path, **options)), train_dataset=Dataset.from_list(rows))


TREES = [{"prompt": "the cat", "nodes": [{"text": "sat", "label": 1, "parent": -1}]}]


@pytest.mark.parametrize(
    ("options", "rows", "match"),
    [
        ({}, outcomes(), "loss_type='min_form' trains on such rows"),
        ({"loss_type": "pqm"}, solutions(soft=True), "'labels': label 0 is .*ranks right steps above wrong ones"),
        ({"loss_type": "pqm"}, TREES, "a tree of steps is many solutions"),
        ({"loss_type": "min_form"}, TREES, "a tree of steps is many solutions"),
        ({"loss_type": "min_form"}, [{**outcomes()[0], "outcome": 2.0}], "'outcome': expected a bool or a share"),
        ({}, scored(), "a scored row cannot train a process reward model. Use RewardTrainer"),
    ],
)
def test_steps_that_do_not_fit_the_loss(options, rows, match, model_path, tmp_path):
    with pytest.raises(ValueError, match=match):
        PRMTrainer(model_path, PRMConfig(**quick(tmp_path, **options)), train_dataset=Dataset.from_list(rows))


@pytest.mark.parametrize(
    ("config_class", "options", "match"),
    [
        (RewardConfig, {"loss_type": "sigmoid"}, "loss_type='sigmoid' is not one of"),
        (RewardConfig, {"loss_type": "hinge", "label_smoothing": 0.1}, "label_smoothing=0.1 does not go with"),
        (RewardConfig, {"label_smoothing": 0.5}, "label_smoothing=0.5; expected a number in"),
        (RewardConfig, {"loss_type": "rao_kupper", "tie_threshold": 0.0}, "tie_threshold=0.0; expected"),
        (RewardConfig, {"loss_type": "huber", "huber_delta": -1.0}, "huber_delta=-1.0; expected"),
        (RewardConfig, {"loss_type": "mse", "center_rewards_coefficient": 0.01}, "does not go with"),
        (RewardConfig, {"attributes": ["a"]}, "does not go with .*mse, huber, bce"),
        (RewardConfig, {"loss_type": "mse", "attributes": ["a", "a"]}, "each once"),
        (
            RewardConfig,
            {"loss_type": "mse", "attributes": ["a"], "attribute_weights": [1, 2]},
            "expected 1 numbers, one an attribute",
        ),
        (RewardConfig, {"loss_type": "mse", "attribute_weights": [1.0]}, "without attributes"),
        (PRMConfig, {"loss_type": "bce"}, "loss_type='bce' is not one of"),
        (PRMConfig, {"class_weights": [1.0]}, "expected two weights"),
        (PRMConfig, {"class_weights": [1.0, -1.0]}, "expected two weights"),
        (PRMConfig, {"loss_type": "pqm", "class_weights": [1.0, 1.0]}, r"class_weights=\[1.0, 1.0\] does not go with"),
        (PRMConfig, {"loss_type": "min_form", "train_on_last_step_only": True}, "does not go with .*cross_entropy"),
        (PRMConfig, {"good_token": "+"}, "go together"),
        (PRMConfig, {"good_token": "+", "bad_token": "+"}, "take two tokens"),
        (PRMConfig, {"good_token": "+", "bad_token": "-", "num_labels": 1}, "num_labels=1 does not go with"),
    ],
)
def test_options_that_do_not_go_together(config_class, options, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        config_class(**quick(tmp_path, **options))


def test_two_labels_are_refused_without_attributes(model_path, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=2)
    data = Dataset.from_list(pairs())
    with pytest.raises(ValueError, match="`num_labels=2`, but reward models require `num_labels=1`"):
        RewardTrainer(model, RewardConfig(**quick(tmp_path)), train_dataset=data)
    args = RewardConfig(**quick(tmp_path, loss_type="mse", attributes=["a", "b", "c"]))
    with pytest.raises(ValueError, match="`num_labels=2`, but 3 attributes are named"):
        RewardTrainer(model, args, train_dataset=data)


@pytest.mark.parametrize("case", ["plackett_luce", "mse"])
def test_batches_by_tokens_and_prompts(case, model_path, tmp_path):
    """Every row once an epoch, no batch over the budget: of a list, its trie counts."""
    options, rows = {"plackett_luce": ({}, lists()), "mse": ({}, scored())}[case]
    options = {**options, "loss_type": case, "max_tokens_per_batch": 90, "group_by_prefix": True}
    args = RewardConfig(**quick(tmp_path, **options))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(rows))
    batches = list(trainer.get_train_dataloader())
    assert sum(len(batch["scores"]) for batch in batches) == 8 and len(batches) > 1
    assert max(batch["prefix_tree"]["num_unique_tokens"] for batch in batches) <= 90


TOKENIZED = {"chosen_ids": [1, 5, 6], "rejected_ids": [1, 7]}
RANKED = {"completion_ids": [[1, 5], [1, 6], [1, 7]], "scores": [1.0, 2.0, 3.0]}


@pytest.mark.parametrize(
    ("options", "row", "match"),
    [
        ({"loss_type": "hinge"}, {**TOKENIZED, "chosen_probability": 0.9}, "'chosen_probability': .*no use for it"),
        ({"loss_type": "rao_kupper"}, {**TOKENIZED, "margin": 0.9}, "'margin': .*no use for it"),
        ({"loss_type": "bce"}, {"input_ids": [1, 5], "scores": [4.0]}, "'scores': 4.0 is outside"),
        ({"loss_type": "plackett_luce"}, {**RANKED, "scores": [1.0, float("nan"), 3.0]}, "'scores': expected a finite"),
        ({"loss_type": "plackett_luce"}, {**RANKED, "weight": -1.0}, "'weight': expected a number of 0 or more"),
    ],
)
def test_tokenized_rows_are_held_to_the_same(options, row, match, model_path, tmp_path):
    with pytest.raises(ValueError, match=f"tokenized data, row 0: column {match}"):
        RewardTrainer(model_path, RewardConfig(**quick(tmp_path, **options)), train_dataset=Dataset.from_list([row]))


@pytest.mark.parametrize(
    ("options", "rows", "reason"),
    [
        ({}, [{**TOKENIZED, "tie": True}, {**TOKENIZED, "tie": False}], "a tie"),
        ({"loss_type": "all_pairs"}, [{**RANKED, "scores": [1.0] * 3}, RANKED], "all scores are the same"),
        (
            {"loss_type": "mse"},
            [{"input_ids": [1, 5], "scores": [float("nan")]}, {"input_ids": [1], "scores": [1.0]}],
            "no attribute is rated",
        ),
    ],
)
def test_tokenized_rows_without_anything_to_learn_are_left_out(options, rows, reason, model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path, **options))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(rows))
    assert trainer.preparation_reports["train"].dropped == {reason: [0]}
    assert trainer.preparation_reports["train"].examples == 1


def test_a_data_set_prepared_for_another_loss_is_told(model_path, tmp_path):
    args = RewardConfig(**quick(tmp_path))
    prepared = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(pairs())).train_dataset
    args = RewardConfig(**quick(tmp_path, loss_type="rao_kupper"))
    with pytest.raises(ValueError, match="prepared for another loss than loss_type='rao_kupper'"):
        RewardTrainer(model_path, args, train_dataset=prepared)


def test_another_collator_must_not_lose_what_the_loss_needs(model_path, tmp_path):
    collator = DataCollatorForPreference(pad_token_id=0)
    for options, rows in (
        ({}, pairs(weight=lambda g, i: 2.0)),
        ({"loss_type": "plackett_luce"}, lists()),
    ):
        args, data = RewardConfig(**quick(tmp_path, **options)), Dataset.from_list(rows)
        with pytest.raises(ValueError, match="Leave `data_collator` out, or derive yours from `hf_rewardplug"):
            RewardTrainer(model_path, args, collator, data)


def test_soft_labels_have_no_calibration_error_and_one_accuracy(model_path, tmp_path):
    data = Dataset.from_list(pairs(chosen_probability=lambda g, i: 0.1))
    args = RewardConfig(**quick(tmp_path, learning_rate=0.0, per_device_train_batch_size=8, max_steps=1))
    trainer = RewardTrainer(model_path, args, train_dataset=data, eval_dataset=data)
    found = trainer.evaluate()
    trainer.train()
    assert "eval_ece" not in found
    assert trainer.state.log_history[0]["accuracy"] == pytest.approx(found["eval_accuracy"])


def test_attributes_keep_the_arguments_of_the_model(model_path, tmp_path):
    kwargs = {"attn_implementation": "sdpa"}
    args = RewardConfig(**quick(tmp_path, loss_type="mse", attributes=["kind", "brief"], model_init_kwargs=kwargs))
    trainer = RewardTrainer(model_path, args, train_dataset=Dataset.from_list(rated()))
    assert trainer.model.config._attn_implementation == "sdpa"
    assert args.model_init_kwargs == kwargs
