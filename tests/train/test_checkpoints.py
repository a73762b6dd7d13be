"""A resumed run is the run that was interrupted; a checkpoint that was half written is never taken for a whole one."""

import json
import shutil

import pytest
import torch
import trl
from datasets import Dataset
from rows import quick, solutions, text_pairs

from hf_rewardplug import PRMConfig, PRMTrainer, RewardConfig, RewardTrainer
from hf_rewardplug.train import checkpoint_files
from hf_rewardplug.train.checkpoint_files import whole_checkpoint, why_not_whole

KINDS = {"orm": (RewardTrainer, RewardConfig, text_pairs), "prm": (PRMTrainer, PRMConfig, solutions)}


def trainer_for(kind: str, model, folder, **options):
    trainer_class, config_class, make = KINDS[kind]
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2, **options}
    data = {"train_dataset": Dataset.from_list(make(20)), "eval_dataset": Dataset.from_list(make(5, 1))}
    return trainer_class(str(model), config_class(**quick(folder, **options)), **data)


@pytest.fixture(scope="module")
def whole_run(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = trainer_for("orm", assets / "stories260K", folder)
    trainer.train()
    return folder, trainer


@pytest.fixture
def output_dir(whole_run, tmp_path):
    shutil.copytree(whole_run[0], tmp_path / "run")
    return tmp_path / "run"


def counts(trainer) -> list[tuple]:
    keys = ("step", "loss", "grad_norm", "accuracy", "num_tokens", "num_unique_tokens")
    return [tuple(log[key] for key in keys) for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_weights_and_token_counts_go_on(kind, assets, tmp_path):
    model = assets / "stories260K"
    whole = trainer_for(kind, model, tmp_path)
    whole.train()
    resumed = trainer_for(kind, model, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert counts(resumed) == counts(whole)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.evaluate()["eval_num_tokens"] == whole.evaluate()["eval_num_tokens"]


def files_of(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "README.md")


@pytest.mark.parametrize("harm", ["missing", "half", "empty"])
def test_a_checkpoint_that_was_half_written_is_passed_over(harm, output_dir, caplog):
    newest = output_dir / "checkpoint-6"
    names = files_of(newest)
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(names)
    for name in names:
        caplog.clear()
        content = (newest / name).read_bytes()
        if harm == "missing":
            (newest / name).unlink()
        else:
            (newest / name).write_bytes(content[: len(content) // 2] if harm == "half" else b"")
        assert whole_checkpoint(True, str(output_dir))[0].name == "checkpoint-4", name
        assert f"{newest}' is not a whole checkpoint and is passed over: {name}" in caplog.text
        with pytest.raises(ValueError, match=f"checkpoint-6' cannot be resumed from: {name}"):
            whole_checkpoint(str(newest), str(output_dir))
        (newest / name).write_bytes(content)
    assert whole_checkpoint(True, str(output_dir))[0] == newest


def test_a_run_goes_on_from_the_newest_whole_checkpoint(whole_run, output_dir, assets):
    (output_dir / "checkpoint-6" / "trainer_state.json").unlink()
    state = (output_dir / "checkpoint-4" / "trainer_state.json").read_text()
    resumed = trainer_for("orm", assets / "stories260K", output_dir)
    resumed.train(resume_from_checkpoint=True)
    assert counts(resumed) == counts(whole_run[1])
    assert why_not_whole(output_dir / "checkpoint-6") is None  # written anew
    assert (output_dir / "checkpoint-4" / "trainer_state.json").read_text() == state


class Killed(BaseException):
    pass


@pytest.mark.parametrize("what", ["_save", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_folder_that_is_written_again_is_not_whole_until_the_end(what, output_dir, assets, monkeypatch):
    """The sizes of an older run's files fit, so what it says of itself must go before the first new file comes."""
    again = trainer_for("orm", assets / "stories260K", output_dir, seed=1, max_steps=2)

    def killed(*args, **kwargs):
        raise Killed

    monkeypatch.setattr(again, what, killed)
    assert why_not_whole(output_dir / "checkpoint-2") is None
    with pytest.raises(Killed):
        again.train()
    assert why_not_whole(output_dir / "checkpoint-2") == "trainer_state.json, which is written last, is missing"


def test_an_edited_json_file_is_whole_and_a_broken_one_is_not(output_dir):
    config = output_dir / "checkpoint-6" / "config.json"
    config.write_text(config.read_text() + "\n\n")
    assert why_not_whole(output_dir / "checkpoint-6") is None
    config.write_text(config.read_text().rstrip()[:-1])
    assert "config.json has" in why_not_whole(output_dir / "checkpoint-6")
    (output_dir / "checkpoint-6" / "trainer_state.json").write_text("[]")
    assert why_not_whole(output_dir / "checkpoint-6") == "trainer_state.json is cut off or damaged"


def test_a_model_only_checkpoint_of_a_resumed_run_lists_no_other_s_files(output_dir, assets):
    resumed = trainer_for("orm", assets / "stories260K", output_dir, max_steps=8, save_only_model=True)
    resumed.train(resume_from_checkpoint=True)
    assert checkpoint_files.read_record(output_dir / "checkpoint-8") == {}
    assert "optimizer.pt and scheduler.pt and rng_state.pth are missing" in why_not_whole(output_dir / "checkpoint-8")


def test_the_best_model_has_the_calibration_of_its_own_evaluation(assets, tmp_path):
    # the tokens grow from evaluation to evaluation: the best one is the first, whatever the losses are
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_num_tokens", "greater_is_better": False}
    options = {"max_steps": 4, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.1, **best}
    trainer = trainer_for("orm", assets / "stories260K", tmp_path, **options)
    trainer.train()
    assert trainer.state.best_global_step == 1
    calibration = trainer.model.config.rewardplug["calibration"]
    assert calibration["step"] == trainer.state.best_global_step
    assert calibration["mean"] == pytest.approx(trainer.predict(trainer.eval_dataset).predictions.mean(), abs=1e-5)


def test_where_nothing_is_whole_nothing_is_resumed(output_dir, tmp_path):
    for folder in output_dir.glob("checkpoint-*"):
        (folder / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"among its 3 .*newest, checkpoint-6, optimizer.pt is missing. Leave it out"):
        whole_checkpoint(True, str(output_dir))
    (tmp_path / "empty" / "checkpoint-x").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has no checkpoint. Leave it out"):
        whole_checkpoint(True, str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"there is no such folder. Give another checkpoint, or True"):
        whole_checkpoint(str(tmp_path / "nowhere"), str(tmp_path))


def test_trl_s_checkpoints_are_resumed_from(assets, tmp_path):
    args = trl.RewardConfig(**quick(tmp_path, max_steps=2, save_strategy="steps", save_steps=1))
    trl.RewardTrainer(str(assets / "stories260K"), args, train_dataset=Dataset.from_list(text_pairs(20))).train()
    resumed = trainer_for("orm", assets / "stories260K", tmp_path, max_steps=3, gradient_accumulation_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert [log["step"] for log in resumed.state.log_history if "loss" in log] == [1, 2, 3]
    weights = tmp_path / "checkpoint-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert "model.safetensors is cut off" in why_not_whole(tmp_path / "checkpoint-1")


def test_trl_resumes_from_ours(whole_run, output_dir, assets):
    args = trl.RewardConfig(**quick(output_dir, max_steps=6, gradient_accumulation_steps=2))
    theirs = trl.RewardTrainer(str(assets / "stories260K"), args, train_dataset=Dataset.from_list(text_pairs(20)))
    theirs.train(resume_from_checkpoint=str(output_dir / "checkpoint-4"))
    losses = [log["loss"] for log in theirs.state.log_history if "loss" in log]
    assert losses == pytest.approx([loss for _, loss, *_ in counts(whole_run[1])], abs=2e-4)


def test_pickled_weights_are_no_checkpoint(output_dir):
    newest = output_dir / "checkpoint-6"
    state = json.loads((newest / "trainer_state.json").read_text())
    state["stateful_callbacks"].pop(checkpoint_files.RECORD)
    (newest / "trainer_state.json").write_text(json.dumps(state))
    assert why_not_whole(newest) is None
    (newest / "model.safetensors").rename(newest / "pytorch_model.bin")
    assert "its weights are a pickle" in why_not_whole(newest)


def test_a_save_that_cannot_be_read_back_is_an_error(assets, tmp_path, monkeypatch):
    trainer = trainer_for("orm", assets / "stories260K", tmp_path)

    def cut_short(folder, *args, **kwargs):
        save(folder, *args, **kwargs)
        path = tmp_path / "out" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    save = trainer.model.save_pretrained
    monkeypatch.setattr(trainer.model, "save_pretrained", cut_short)
    with pytest.raises(RuntimeError, match=r"model.safetensors is cut off"):
        trainer.save_model(str(tmp_path / "out"))
