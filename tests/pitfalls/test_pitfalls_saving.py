"""PITFALLS 26 to 32, Liger, ZeRO, saving, serving: each promise, and the same check failing with its mend undone."""

import json
from pathlib import Path

import pytest
import torch
from interpreted import DEVICE, triton_here  # noqa: F401
from rows import solutions
from safetensors.torch import load_file, save_file
from small import pair_rewards, plain, text_pairs
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, pipeline
from undo import FAILURE, fails_at_trl, fails_without

import hf_rewardplug
from hf_rewardplug.train import checkpoints, models
from hf_rewardplug.train.losses.pairs import bradley_terry_loss

ROOT = Path(__file__).resolve().parents[2]


def assert_near(found: list[float], expected: list[float]):
    assert found == pytest.approx(expected, abs=1e-5)


def test_pitfall_26_liger_does_not_crash_on_a_classifier(orm, triton_here, tokenizer):  # noqa: F811
    """`use_liger_kernel=True` puts a causal LM's forward on a classifier: `no attribute 'lm_head'` in TRL.

    Here: Liger patches the body, and training and evaluation give the figures that they give without it.
    """
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=len(tokenizer), num_labels=1, pad_token_id=0)
    options = {"max_steps": 1, "use_cpu": DEVICE.type == "cpu", "gradient_checkpointing": False}

    def figures(use_liger_kernel: bool, of=hf_rewardplug) -> list[float]:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        rows, options["use_liger_kernel"] = text_pairs(1), use_liger_kernel
        trainer = orm(rows, rows, of=of, model=model, processing_class=tokenizer, **options)
        trainer.train()
        assert trainer.args.use_liger_kernel is use_liger_kernel
        return [trainer.state.log_history[0]["loss"], trainer.evaluate()["eval_loss"]]

    expected = figures(False)
    fails_at_trl(lambda of: assert_near(figures(True, of), expected), raises=AttributeError, match="lm_head")


def test_pitfall_26_without_a_gpu_liger_is_left_out(orm, caplog):
    trainer = orm(text_pairs(2), use_liger_kernel=True)
    trainer.train()
    assert not trainer.args.use_liger_kernel and "Triton kernels do not run on 'cpu'" in caplog.text


def test_pitfall_27_a_head_that_was_not_saved_is_an_error(orm, tmp_path):
    """ZeRO-3 without gather-on-save writes no head (or an empty one) into `model.safetensors`, and nobody notices.

    Here: the recipes gather, and each saved folder is read back: the head that trained must be in it.
    """
    configs = [json.loads(path.read_text()) for path in (ROOT / "recipes" / "deepspeed").glob("zero3*.json")]
    assert len(configs) >= 2
    assert all(config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True for config in configs)
    trainer = orm(text_pairs(2))
    state = trainer.model.state_dict()
    trained = {"weight": state["score.weight"]}
    broken = {
        r"is missing.*model\.safetensors": {key: value for key, value in state.items() if key != "score.weight"},
        r"shape \(0,\).*model\.safetensors": {**state, "score.weight": torch.empty(0)},
        "other values": {**state, "score.weight": state["score.weight"] + 1},
    }
    remedy = "stage3_gather_16bit_weights_on_model_save"
    trainer.save_model()
    checkpoints.check_saved_head(tmp_path, trained)

    def refuses(message, weights):
        save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "model.safetensors")
        with pytest.raises(RuntimeError, match=rf"'score\.weight' .*{message}.*{remedy}"):
            checkpoints.check_saved_head(tmp_path, trained)

    for message, weights in broken.items():
        refuses(message, weights)

    def saves(weights):
        with pytest.raises(RuntimeError, match=remedy):
            trainer._save(str(tmp_path), state_dict=weights)

    for weights in list(broken.values())[:2]:
        fails_without(lambda weights=weights: saves(weights), (checkpoints, "check_saved_head", lambda *given: None))


@pytest.mark.slow
def test_pitfall_28_zero_3_on_cpus_finds_its_ranks_under_torchrun(zero_3_ranks):
    """accelerate knows no CPU backend under DeepSpeed: every rank of torchrun takes itself for the only one.

    Here: `deepspeed_on_cpu`, which the recipes call, names gloo beforehand.
    """
    assert zero_3_ranks["mended"] == [[2, 0], [2, 1]]
    assert zero_3_ranks["undone"] == [[1, 0], [1, 0]]


def test_pitfall_29_a_foreign_head_is_taken_or_refused(orm, model_path, tokenizer, tmp_path, caplog):
    """transformers draws a new head where the checkpoint calls its own `v_head`, `value_head` or `classifier`.

    Here: it becomes `score` where the shape fits, with a warning that names both; otherwise it is refused by name.
    """
    body = AutoModelForCausalLM.from_pretrained(model_path)
    weight = torch.linspace(-1, 1, 64)[None]

    def folder(key, value):
        name = tmp_path / f"{key}-{len(value)}"
        body.save_pretrained(name)
        tokenizer.save_pretrained(name)
        tensors = load_file(name / "model.safetensors")
        save_file({**tensors, key: value}, name / "model.safetensors", metadata={"format": "pt"})
        return str(name)

    def takes(of, key):
        trainer = orm(text_pairs(2), of=of, model=folder(key, weight))
        assert torch.equal(trainer.model.score.weight, weight)

    def refuses(of, key):
        with pytest.raises(ValueError, match=rf"{key}.*\(3, 64\).*\(1, 64\)|{key}.*\(1, 64\).*\(3, 64\)"):
            orm(text_pairs(2), of=of, model=folder(key, weight.repeat(3, 1)))

    for key in ("v_head.summary.weight", "value_head.weight", "classifier.weight"):
        caplog.clear()
        fails_at_trl(lambda of, key=key: takes(of, key))
        assert any(key in line and "score" in line for line in caplog.messages)
        fails_at_trl(lambda of, key=key: refuses(of, key))


def test_pitfall_30_a_resumed_run_is_the_whole_one_tokens_included(orm, prm, tmp_path):
    """TRL's token counter starts from 0 again when a run is resumed.

    Here: losses, weights and counters are those of the run that was not interrupted.
    """
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def holds(trainer_of):
        whole, resumed = trainer_of(), trainer_of()
        whole.train()
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), name
        logs = [
            [(log["step"], log["loss"], log["num_tokens"]) for log in trainer.state.log_history if "loss" in log]
            for trainer in (whole, resumed)
        ]
        assert len(logs[0]) == 4 and logs[0] == logs[1]

    fails_at_trl(lambda of: holds(lambda: orm(text_pairs(12), of=of, **options)))
    holds(lambda: prm(solutions(12), **options))


def test_pitfall_31_the_raw_reward_is_served(orm, tmp_path):
    """With one label, transformers' pipeline and vLLM put a sigmoid on the reward of a model that TRL saved.

    Here: `problem_type="regression"` is saved, and both return the reward.
    """
    rows = text_pairs(3)

    def holds(of=hf_rewardplug):
        trainer = orm(rows, of=of)
        trainer.train()
        trainer.save_model()
        expected = pair_rewards(plain(trainer), trainer.processing_class, rows)
        serve = pipeline("text-classification", str(tmp_path), device="cpu")
        texts = [row["prompt"] + row[key] + "</s>" for row in rows for key in ("chosen", "rejected")]
        served = torch.tensor([answer["score"] for answer in serve(texts)]).view(3, 2)
        torch.testing.assert_close(served, expected, rtol=0, atol=1e-5)

    def nothing(model, kind, **description):
        model.config.rewardplug = description

    fails_without(holds, (models, "describe_checkpoint", nothing))
    fails_at_trl(holds)


def test_pitfall_32_drift_of_the_rewards_is_logged_and_saved(orm, tmp_path):
    """The loss is blind to a constant, so rewards may drift; TRL logs no spread and saves nothing to undo it with.

    Here: mean and standard deviation are logged, and those of the last evaluation are saved in config.json.
    """
    rewards = torch.randn(2, 5)
    torch.testing.assert_close(bradley_terry_loss(*(rewards + 7)), bradley_terry_loss(*rewards))
    rows, held_out = text_pairs(8), text_pairs(5, 1)

    def holds(of):
        trainer = orm(rows, held_out, of=of, max_steps=2, eval_strategy="steps", eval_steps=1)
        first = pair_rewards(plain(trainer), trainer.processing_class, rows[:2])
        trainer.train()
        trainer.save_model()
        last = pair_rewards(plain(trainer), trainer.processing_class, held_out)
        expected = [(x.mean().item(), x.std(correction=0).item()) for x in (first, last)]
        logs, evaluations = (
            [log for log in trainer.state.log_history if key in log] for key in ("grad_norm", "eval_loss")
        )
        assert (logs[0]["mean_reward"], logs[0].get("std_reward")) == pytest.approx(expected[0], abs=1e-5)
        found = evaluations[-1]["eval_mean_reward"], evaluations[-1].get("eval_std_reward")
        assert found == pytest.approx(expected[1], abs=1e-5)
        saved = json.loads((tmp_path / "config.json").read_text())["rewardplug"]["calibration"]
        assert (saved["mean"], saved["std"]) == pytest.approx(expected[1], abs=1e-5)

    fails_at_trl(holds, raises=(*FAILURE, TypeError))
