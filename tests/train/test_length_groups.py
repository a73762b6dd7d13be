"""`train_sampling_strategy` by length: rows of every kind, by their tokens, in batches of rows and of tokens."""

import random
from itertools import chain

import pytest
import transformers
from datasets import Dataset
from rows import quick, sentence, solutions, text_pairs
from transformers import trainer_pt_utils

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.data.batching import BatchPlan


def lists(count: int) -> list[dict]:
    g = random.Random(0)
    return [
        {
            "prompt": sentence(g, 2, 6) + "\n",
            "completions": [sentence(g, 1, 9) for _ in range(3)],
            "scores": [0.0, 1.0, 2.0],
        }
        for _ in range(count)
    ]


def scored(count: int) -> list[dict]:
    return [{"prompt": row["prompt"], "completion": row["chosen"], "score": 1.0} for row in text_pairs(count)]


KINDS = {
    "pairs": (RewardTrainer, RewardConfig, text_pairs, {}),
    "lists": (RewardTrainer, RewardConfig, lists, {"loss_type": "plackett_luce"}),
    "scores": (RewardTrainer, RewardConfig, scored, {"loss_type": "mse"}),
    "steps": (PRMTrainer, PRMConfig, solutions, {}),
}


@pytest.fixture(scope="module")
def model_path(assets):
    return str(assets / "stories260K")


def sequences(row: dict) -> list[list[int]]:
    if "chosen_ids" in row:
        return [row["chosen_ids"], row["rejected_ids"]]
    return row.get("completion_ids") or [row["input_ids"]]


def longest(row: dict) -> int:
    return max(map(len, sequences(row)))


def unique(row: dict) -> int:
    """The beginnings of all sequences, each once: the nodes of their prefix tree."""
    return len({tuple(ids[: end + 1]) for ids in sequences(row) for end in range(len(ids))})


def trainer_of(kind: str, model, folder, rows=None, **options):
    trainer_class, config_class, make, loss = KINDS[kind]
    args = config_class(**quick(folder, train_sampling_strategy="group_by_length", **loss, **options))
    return trainer_class(model, args, train_dataset=rows or Dataset.from_list(make(17)))


def lengths_of_batches(trainer, length) -> list[list[int]]:
    batches = list(trainer.get_train_dataloader().batch_sampler)
    assert sorted(chain(*batches)) == list(range(len(trainer.train_dataset)))
    return [sorted(length(trainer.train_dataset[index]) for index in batch) for batch in batches]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_like_length_share_a_batch(kind, shared, model_path, tmp_path):
    trainer = trainer_of(kind, model_path, tmp_path, prefix_sharing=shared, per_device_train_batch_size=3, max_steps=1)
    trainer.train()
    batches = lengths_of_batches(trainer, unique if shared else longest)
    assert sorted(map(len, batches)) == [2, 3, 3, 3, 3, 3]
    in_order = sorted(batches)  # one batch goes on where another ends
    assert [*chain(*in_order)] == sorted(chain(*batches))
    assert batches != in_order  # but training takes them in the order of the seed


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_tokens_hold_rows_of_like_length(kind, model_path, tmp_path):
    trainer = trainer_of(kind, model_path, tmp_path, max_tokens_per_batch=200, max_steps=1)
    trainer.train()
    batches = lengths_of_batches(trainer, unique)
    assert all(sum(batch) <= 200 for batch in batches) and max(map(len, batches)) > 2
    assert [*chain(*sorted(batches))] == sorted(chain(*batches))


@pytest.mark.parametrize("column", ["length", "size"])
def test_a_column_of_the_rows_is_no_count_of_tokens(column, model_path, tmp_path, caplog):
    rows = Dataset.from_list([{**row, column: 99 - index} for index, row in enumerate(text_pairs(17))])
    batches = lengths_of_batches(trainer_of("pairs", model_path, tmp_path, rows, length_column_name=column), unique)
    assert [*chain(*sorted(batches))] == sorted(chain(*batches))
    assert ("`length_column_name` has no effect" in caplog.text) == (column == "size")


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_of_a_stream_no_length_is_known(strategy, model_path, tmp_path):
    trainer = trainer_of("pairs", model_path, tmp_path, Dataset.from_list(text_pairs(8)).to_iterable_dataset())
    trainer.args.train_sampling_strategy = strategy
    with pytest.raises(ValueError, match=f"strategy='{strategy}' must see all rows beforehand.* is a stream"):
        trainer.train()


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_rebalanced_batches_get_the_same_lengths(kind, model_path, tmp_path):
    if not hasattr(trainer_pt_utils, "BatchRebalanceSampler"):
        pytest.skip(f"transformers {transformers.__version__} does not rebalance batches")
    trainer = trainer_of(kind, model_path, tmp_path)
    trainer.args.train_sampling_strategy = "batch_rebalance"
    trainer.train()
    sampler = trainer._get_train_sampler()
    assert isinstance(sampler, trainer_pt_utils.BatchRebalanceSampler)
    assert sampler.lengths == [unique(row) for row in trainer.train_dataset]


def test_ranks_get_rows_of_like_length_at_the_same_time():
    lengths = [9, 1, 5, 2, 8, 4, 7, 3, 6]
    plan = BatchPlan([1] * 9, budget=2, ranks=2, lengths=lengths)
    batches = [[lengths[index] for index in batch] for batch in plan]
    windows = sorted(sorted(one + other) for one, other in zip(batches[::2], batches[1::2], strict=True))
    assert windows == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 9]]  # the last rank has the first row again


def test_groups_stay_together_and_follow_their_longest():
    plan = BatchPlan([1] * 6, budget=2, groups=[0, 1, 0, 2, 1, 2], lengths=[1, 2, 9, 4, 3, 5])
    assert sorted(map(sorted, plan)) == [[0, 2], [1, 4], [3, 5]]
    assert BatchPlan([1] * 4, budget=2, lengths=[4, 1, 3, 2]).windows == [[[1, 3]], [[0, 2]]]
