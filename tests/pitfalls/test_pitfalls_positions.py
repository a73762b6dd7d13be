"""PITFALLS 41 and 42, positions: each promise, and the same check failing with its mend undone."""

import pytest
import torch
from families import length_ropes
from small import pair_loss, pair_rewards, plain, text_pairs
from transformers import AutoConfig, AutoModelForSequenceClassification
from undo import fails_at_trl, fails_without

from hf_rewardplug import RewardScorer
from hf_rewardplug.score import scorer as score_scorer
from hf_rewardplug.train import packing

LIMIT = 24
DYNAMIC, LONG = length_ropes(LIMIT).values()


def no_mend(model):
    """Nothing is hooked, and all texts may share."""


def test_pitfall_41_no_row_is_longer_than_the_learned_positions(orm, tokenizer, tmp_path):
    """TRL's `max_length` is 1024 whatever the model: training stops at the first row beyond GPT-2's or BERT's table.

    Here: the table bounds `max_length`, so that such a row is left out and counted before the first step.
    """
    tokenizer.pad_token = "<unk>"
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 1}
    sizes = {"n_positions": 2 * LIMIT, "n_embd": 16, "n_layer": 1, "n_head": 2}
    folder = str(tmp_path / "gpt2")
    AutoModelForSequenceClassification.from_config(AutoConfig.for_model("gpt2", **sizes, **ids)).save_pretrained(folder)
    rows = [text_pairs(1)[0], {"prompt": "the cat " * 2 * LIMIT, "chosen": "sat", "rejected": "ran"}]

    def holds(of):
        trainer = orm(rows, of=of, model=folder, processing_class=tokenizer)
        trainer.train()
        assert len(trainer.train_dataset) == 1

    fails_at_trl(holds, raises=IndexError, match="index out of range")


@pytest.mark.parametrize("packs", [False, True])
def test_pitfall_42_a_texts_frequencies_are_its_own(orm, model_path, tokenizer, tmp_path, packs):
    """transformers takes LongRoPE's long factors, or dynamic NTK's, for a whole batch if one of its texts is long.

    Here: each text of a batch has those that it has alone, in training, in evaluation and in scoring.
    """
    rows = text_pairs(4)
    lengths = [len(tokenizer(row["prompt"] + row[key])["input_ids"]) for row in rows for key in ("chosen", "rejected")]
    assert min(lengths) < LIMIT - 1 < max(lengths)

    def loads(rope, **options):
        config = {"rope_parameters": rope, **options}
        return AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1, **config).eval()

    torch.manual_seed(0)
    loads(LONG).save_pretrained(tmp_path / "long")

    def training():
        options = {"per_device_train_batch_size": 4, "learning_rate": 0.0, "prefix_sharing": packs}
        trainer = orm(rows, rows, model=str(tmp_path / "long"), processing_class=tokenizer, **options)
        trainer.train()
        expected = pytest.approx(pair_loss(pair_rewards(plain(trainer), tokenizer, rows)), abs=2e-5)
        assert trainer.state.log_history[0]["loss"] == expected and trainer.evaluate()["eval_loss"] == expected

    torch.manual_seed(0)
    loads(DYNAMIC, max_position_embeddings=LIMIT).save_pretrained(tmp_path / "dynamic")

    def scoring():
        def fresh():
            return AutoModelForSequenceClassification.from_pretrained(tmp_path / "dynamic").eval()

        expected = [pair_rewards(fresh(), tokenizer, [row])[0].tolist() for row in rows]
        found = RewardScorer(fresh(), tokenizer, prefix_sharing=packs).score(
            [row["prompt"] for row in rows], [[row["chosen"], row["rejected"]] for row in rows]
        )
        assert found == [pytest.approx(of_row, abs=2e-5) for of_row in expected]

    fails_without(training, (packing, "separate_lengths", no_mend))
    fails_without(scoring, (score_scorer, "separate_lengths", no_mend))
