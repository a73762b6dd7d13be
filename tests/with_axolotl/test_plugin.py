"""Both configs of axolotl's guide, with the plugin, through axolotl's own command from the YAML to the saved model."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from axolotl.cli.args import TrainerCliArgs
from axolotl.cli.config import load_cfg
from axolotl.cli.train import do_train
from axolotl.common.datasets import load_datasets
from axolotl.integrations import base
from axolotl.integrations.base import PluginManager
from axolotl.train import setup_model_and_trainer
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_rewardplug import PRMTrainer, RewardScorer, RewardTrainer, StepCollator
from hf_rewardplug.demo import demo_rows, save_demo_model
from hf_rewardplug.integrations.axolotl.config import translate
from hf_rewardplug.integrations.axolotl.plugin import RewardPlugPlugin
from hf_rewardplug.integrations.axolotl.training import make_trainer, read_yaml
from hf_rewardplug.model import attention

PLUGIN = "hf_rewardplug.integrations.axolotl.RewardPlugPlugin"
GUIDE = {
    "orm": """
base_model: MODEL
model_type: AutoModelForSequenceClassification
num_labels: 1
reward_model: true
chat_template: gemma
datasets:
  - path: ROWS
    type: bradley_terry.chat_template
""",
    "prm": """
base_model: MODEL
model_type: AutoModelForTokenClassification
num_labels: 2
process_reward_model: true
datasets:
  - path: ROWS
    type: stepwise_supervised
""",
}
SHORT = """
sequence_len: 128
micro_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1e-3
lr_scheduler: linear
optimizer: adamw_torch
max_steps: 4
logging_steps: 1
save_steps: 2
bf16: false
fp16: false
tf32: false
seed: 3
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """kind -> (model, rows): tiny models; pairs of Orca's format without `system`, and steps."""
    found = {}
    for kind, style in (("orm", "gemma"), ("prm", "qwen")):
        folder = tmp_path_factory.mktemp(kind)
        rows, _ = demo_rows(style, train=60, test=1)
        if kind == "orm":
            rows = [
                {
                    name: row[key][0]["content"]
                    for name, key in (("input", "prompt"), *((one, one) for one in ("chosen", "rejected")))
                }
                for row in rows
            ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        found[kind] = str(save_demo_model(folder / "model", style=style)), str(folder / "rows.jsonl")
    return found


@pytest.fixture
def config(files, tmp_path, monkeypatch):
    """Writes a config, and clears what axolotl keeps between two in one process."""
    manager().plugins.clear()
    monkeypatch.setattr(sys, "argv", ["axolotl"])
    monkeypatch.chdir(tmp_path)

    def write(kind: str, *, plugin: bool = True, of_data: dict | None = None, name="run", rows=None, **more):
        model, file = files[kind]
        raw = yaml.safe_load(GUIDE[kind].replace("MODEL", model).replace("ROWS", rows or file) + SHORT)
        raw |= {"output_dir": str(tmp_path / "out"), **({"plugins": [PLUGIN]} if plugin else {}), **more}
        raw["datasets"][0] |= of_data or {}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(raw))
        if not plugin:  # of axolotl 0.21 neither by its entry point
            monkeypatch.setattr(base, "get_builtin_plugins", lambda: (), raising=False)
        return load_cfg(str(path))

    return write


def manager():
    return PluginManager.get_instance()


def build(cfg):
    """The trainer of axolotl's real builder."""
    return setup_model_and_trainer(cfg, manager().load_datasets(cfg))[0]


def state(folder) -> dict:
    return json.loads((folder / "trainer_state.json").read_text())


def losses(folder) -> list[float]:
    return [log["loss"] for log in state(folder)["log_history"] if "loss" in log]


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_the_configs_of_the_guide_train_to_the_end(kind, config, tmp_path):
    do_train(config(kind, val_set_size=0.1, eval_steps=2), TrainerCliArgs())
    history = state(tmp_path / "out" / "checkpoint-4")["log_history"]
    assert len(losses(tmp_path / "out" / "checkpoint-4")) == 4
    assert [log["step"] for log in history if "eval_accuracy" in log] == [0, 2, 4]
    assert all(log["sharing_ratio"] > 1 for log in history if "loss" in log)
    scorer = RewardScorer.from_pretrained(tmp_path / "out")
    description = scorer.model.config.rewardplug
    assert description["kind"] == kind and (kind == "prm" or description["calibration"]["step"] == 4)
    if kind == "orm":  # a plain transformers folder
        model = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "out", dtype=torch.float32, attn_implementation="eager"
        )
        text = scorer.tokenizer.apply_chat_template(
            [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}], tokenize=False
        )
        ids = AutoTokenizer.from_pretrained(tmp_path / "out")(text, add_special_tokens=False, return_tensors="pt")
        messages = [[{"role": "user", "content": "1?"}]], [[[{"role": "assistant", "content": "2"}]]]
        expected = model(input_ids=ids["input_ids"]).logits.item()
        assert scorer.score(*messages)[0] == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "rows", "of_data"),
    [
        ("prm", "prm800k_val/val.jsonl", {"split": "train[:40]"}),
        ("orm", "pandalm/test.jsonl", {"split": "train[:40]", "type": "preference"}),
    ],
)
def test_real_rows(kind, rows, of_data, config, assets, tmp_path):
    file = assets / rows
    if not file.exists():
        file = next(iter(sorted(file.parent.glob("*.jsonl"))))
    do_train(config(kind, rows=str(file), of_data=of_data, sequence_len=512, val_set_size=4), TrainerCliArgs())
    assert len(losses(tmp_path / "out" / "checkpoint-4")) == 4


def test_several_data_sets_are_told_apart(config, files, tmp_path):
    (tmp_path / "more.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in demo_rows("gemma", train=9, test=1)[0])
    )
    both = [
        {"path": files["orm"][1], "type": "bradley_terry.chat_template", "subset": "orca"},
        {"path": str(tmp_path / "more.jsonl"), "type": "preference", "subset": "messages"},
    ]
    do_train(config("orm", datasets=both, val_set_size=0.2, eval_steps=4), TrainerCliArgs())
    last = [log for log in state(tmp_path / "out" / "checkpoint-4")["log_history"] if "eval_loss" in log][-1]
    assert {"eval_subset_orca_accuracy", "eval_subset_messages_accuracy"} <= set(last)


def test_axolotl_itself_fails_on_rows_without_system(config):
    """What the plugin is for; when this fails, axolotl has mended it."""
    cfg = config("orm", plugin=False)
    with pytest.raises(KeyError, match="system"):
        load_datasets(cfg=cfg, cli_args=TrainerCliArgs())


def test_axolotl_itself_drops_the_options_of_data_sets(config):
    cfg = config("prm", plugin=False, of_data={"step_separator": "|", "max_completion_length": 60})
    assert cfg.datasets[0].step_separator is None and cfg.datasets[0].max_completion_length is None


def test_a_row_without_system_beside_one_with(config, tmp_path):
    rows = [{"input": f"{n}?", "chosen": f"{n}", "rejected": "1000"} for n in range(4)]
    rows += [{**row, "system": "Count."} for row in rows]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer = build(config("orm", rows=str(tmp_path / "mixed.jsonl")))
    texts = [trainer.processing_class.decode(row["chosen_ids"]) for row in trainer.train_dataset]
    assert len(texts) == 8 and sum("Count." in text for text in texts) == 4


def test_the_options_of_data_sets_arrive(config):
    options = {"step_separator": "|", "max_completion_length": 45, "train_on_last_step_only": True}
    trainer = build(config("prm", of_data=options))
    assert {name: getattr(trainer.args, name) for name in options} == options
    assert trainer.model.config.rewardplug["step_separator"] == "|"
    mark = trainer.processing_class.encode("|", add_special_tokens=False)
    for row in trainer.train_dataset:
        labelled = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert [*labelled] == mark  # one label a row, on the separator


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_the_trainer_is_this_package_s_and_pads_nothing(kind, config):
    cfg = config(kind, overlong="error", group_by_prefix=True, cosine_min_lr_ratio=0.1, lr_scheduler="cosine")
    assert cfg.pad_to_sequence_len is (True if kind == "orm" else None)
    trainer = build(cfg)
    assert isinstance(trainer, {"orm": RewardTrainer, "prm": PRMTrainer}[kind])
    assert trainer.args.overlong == "error" and trainer.args.group_by_prefix and trainer.args.max_length == 128
    assert trainer.args.logging_nan_inf_filter is False  # axolotl 0.21's default is True
    assert trainer.data_collator.prefix_sharing and type(trainer.data_collator).__module__ == StepCollator.__module__
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[0] == 1  # one packed row
    trainer.create_optimizer_and_scheduler(10)
    assert type(trainer.lr_scheduler).__name__ == "LambdaLR" and trainer.args.cosine_min_lr_ratio == 0.1


@pytest.mark.parametrize("named", [{"eager_attention": True}, {"attn_implementation": "eager"}])
@pytest.mark.parametrize("head", [{}, {"good_token": "1", "bad_token": "0", "model_type": None, "num_labels": None}])
def test_an_attention_that_the_config_names_keeps_no_trees_off(named, head, config, monkeypatch):
    told = []
    monkeypatch.setattr("hf_rewardplug.integrations.axolotl.plugin.LOG.warning", lambda *words: told.append(words))
    trainer = build(config("prm", **named, **head))
    assert [words[0] for words in told] == ["not taken  attn_implementation: %s"]
    assert trainer.data_collator.prefix_sharing and trainer.model.config._attn_implementation == "prefix_tree"
    manager().plugins.clear()
    padded = build(config("prm", prefix_sharing=False, **named, **head))
    assert not padded.data_collator.prefix_sharing and padded.model.config._attn_implementation == "eager"


def test_a_model_that_takes_no_trees_keeps_the_attention_that_the_config_names(config, monkeypatch):
    monkeypatch.setattr(attention, "FAMILIES", set())
    trainer = build(config("prm", attn_implementation="eager"))
    assert not trainer.data_collator.prefix_sharing and trainer.model.config._attn_implementation == "eager"


def test_a_checkpoint_resumes(config, tmp_path):
    do_train(config("orm", output_dir=str(tmp_path / "whole")), TrainerCliArgs())
    do_train(config("orm", output_dir=str(tmp_path / "cut"), name="cut"), TrainerCliArgs())
    whole = losses(tmp_path / "whole" / "checkpoint-4")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    cfg = config("orm", output_dir=str(tmp_path / "cut"), name="again", auto_resume_from_checkpoints=True)
    do_train(cfg, TrainerCliArgs())
    assert cfg.resume_from_checkpoint.endswith("checkpoint-2")
    assert losses(tmp_path / "cut" / "checkpoint-4") == whole
    tokens = [state(tmp_path / name / "checkpoint-4")["log_history"][-1].get("num_tokens") for name in ("whole", "cut")]
    assert tokens[0] == tokens[1] and tokens[0] is not None


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_lora(kind, config, tmp_path):
    lora = {"adapter": "lora", "lora_r": 2, "lora_alpha": 4, "lora_target_linear": True}
    do_train(config(kind, **lora), TrainerCliArgs())
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert json.loads((tmp_path / "out" / "reward_config.json").read_text())["rewardplug"]["kind"] == kind
    RewardScorer.from_pretrained(tmp_path / "out")  # which axolotl's config.json would mislead
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("quantization", [{"adapter": "lora"}, {"adapter": "qlora", "load_in_4bit": True}])
def test_adapters_of_an_lm_head(quantization, config, tmp_path):
    head = {"good_token": "1", "bad_token": "0", "model_type": None, "num_labels": None, "prefix_sharing": "false"}
    do_train(config("prm", **head, **quantization, lora_r=2, lora_alpha=4, lora_target_linear=True), TrainerCliArgs())
    scorer = RewardScorer.from_pretrained(tmp_path / "out")
    assert 0 < scorer.score_steps(["1?"], [["2"]])[0][0] < 1


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_qlora(kind, config, tmp_path):
    do_train(
        config(kind, adapter="qlora", load_in_4bit=True, lora_r=2, lora_alpha=4, lora_target_linear=True),
        TrainerCliArgs(),
    )
    RewardScorer.from_pretrained(tmp_path / "out")


def test_several_attributes(config, files, tmp_path):
    """axolotl's builder writes one label into every reward model's config."""
    rows = [json.loads(line) for line in open(files["orm"][1])]
    rows = [
        {
            "prompt": row["input"],
            "completion": row[key],
            "attributes": {"good": int(key == "chosen"), "length": len(row[key])},
        }
        for row in rows
        for key in ("chosen", "rejected")
    ]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    of_data = {"type": "scored.attributes"}
    more = {"attributes": ["good", "length"], "loss_type": "mse", "num_labels": None}
    do_train(config("orm", rows=str(tmp_path / "scored.jsonl"), of_data=of_data, **more), TrainerCliArgs())
    scorer = RewardScorer.from_pretrained(tmp_path / "out")
    assert set(scorer.score_attributes(["1?"], [["2"]])[0][0]) == {"good", "length"}


def test_an_lm_head_without_a_model_type(config, tmp_path):
    trainer = build(config("prm", good_token="1", bad_token="0", model_type=None, num_labels=None))
    assert type(trainer.model).__name__ == "Qwen2ForCausalLM"


def test_keys_of_batches_change_nothing_and_an_order_is_kept(config):
    grouped = build(config("orm", group_by_length=True))
    assert grouped.args.train_sampling_strategy == "random"
    manager().plugins.clear()
    ordered = build(config("orm", curriculum_sampling=True, val_set_size=0.2))
    assert type(ordered._get_train_sampler()).__name__ == "SequentialSampler"
    prompts = [ordered.processing_class.decode(row["chosen_ids"]) for row in ordered.train_dataset]
    manager().plugins.clear()
    whole = build(config("orm"))
    every = [whole.processing_class.decode(row["chosen_ids"]) for row in whole.train_dataset]
    assert prompts == sorted(prompts, key=every.index)


def test_a_saved_data_set_has_splits(config, files, tmp_path):
    rows = Dataset.from_json(files["orm"][1])
    DatasetDict(train=rows.select(range(9)), test=rows.select(range(9, 12))).save_to_disk(tmp_path / "saved")
    data = {"path": str(tmp_path / "saved"), "type": "bradley_terry.chat_template"}
    trainer = build(config("orm", datasets=[data], test_datasets=[data]))
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (9, 3)
    rows.save_to_disk(tmp_path / "one")
    manager().plugins.clear()
    trainer = build(config("orm", datasets=[{**data, "path": str(tmp_path / "one"), "split": "train[:10]"}]))
    assert len(trainer.train_dataset) == 10


def test_names_of_files_are_no_patterns(config, files, tmp_path):
    """axolotl itself reads `x1.jsonl` for `x[1].jsonl`."""
    lines = Path(files["orm"][1]).read_text().splitlines(keepends=True)
    for name, count in (("x[1]", 9), ("x1", 12)):
        (tmp_path / f"{name}.jsonl").write_text("".join(lines[:count]))
    trainer = build(config("orm", rows=str(tmp_path / "x[1].jsonl")))
    assert len(trainer.train_dataset) == 9


def test_a_half_written_checkpoint_is_passed_over(config, tmp_path):
    do_train(config("orm"), TrainerCliArgs())
    expected = losses(tmp_path / "out" / "checkpoint-4")
    weights = tmp_path / "out" / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    do_train(config("orm", auto_resume_from_checkpoints=True), TrainerCliArgs())
    assert losses(tmp_path / "out" / "checkpoint-4") == expected


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_losses_are_those_without_axolotl(kind, config, tmp_path):
    do_train(config(kind), TrainerCliArgs())
    trainer = make_trainer(translate(read_yaml(tmp_path / "run.yaml") | {"output_dir": str(tmp_path / "alone")}))
    trainer.train()
    alone = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert alone == pytest.approx(losses(tmp_path / "out" / "checkpoint-4"), rel=1e-6)


def test_no_argument_of_axolotl_s_commands_is_taken_for_a_key(config, monkeypatch):
    told = []
    monkeypatch.setattr("hf_rewardplug.integrations.axolotl.plugin.LOG.warning", told.append)
    load_cfg(config("orm").axolotl_config_path, **vars(TrainerCliArgs()))
    assert told == []


@pytest.mark.skipif(not hasattr(base, "get_builtin_plugins"), reason="axolotl 0.19 has no plugins by entry point")
@pytest.mark.parametrize("plugins", [None, [PLUGIN.replace("axolotl.", "axolotl:")]])
def test_axolotl_finds_the_plugin_by_its_entry_point(plugins, config):
    trainer = build(config("prm", plugins=plugins, logging_nan_inf_filter=True, chat_template_kwargs={"a": 1}))
    assert isinstance(trainer, PRMTrainer) and [*manager().plugins].count(PLUGIN) == 1
    assert trainer.args.logging_nan_inf_filter and trainer.args.chat_template_kwargs == {"a": 1}


@pytest.mark.parametrize("plugins", [[], [PLUGIN]])
def test_other_configs_are_left_alone(plugins, monkeypatch):
    told = []
    monkeypatch.setattr("hf_rewardplug.integrations.axolotl.plugin.LOG.warning", told.append)
    plugin = RewardPlugPlugin()
    plugin.register({"base_model": "m", "datasets": [{"path": "p", "type": "chat_template"}], "plugins": plugins})
    assert len(told) == len(plugins) and plugin.get_input_args() is None
    cfg = types.SimpleNamespace(logging_steps=None)
    plugin.post_trainer_create(cfg, None)
    assert plugin.load_datasets(cfg) is plugin.get_trainer_cls(cfg) is plugin.get_collator_cls_and_kwargs(cfg) is None
    assert plugin.get_training_args(cfg) == {}
