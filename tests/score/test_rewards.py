"""`RewardScorer` as the reward function of TRL's GRPOTrainer and RLOOTrainer.

A reward model made by hand likes tokens with an "e" in them: attention with queries and keys of zeros averages over the
sequence, its value is 1 at a token that is liked, and the head reads the average at the end.
"""

import inspect
import pickle

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from rows import quick
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    set_seed,
)
from transformers.utils.import_utils import is_kernels_available
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from hf_rewardplug import RewardScorer

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
PROMPTS = ["Once upon a time", "The little dog", "One day, a cat", "Lily and Tom"]
TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


@pytest.fixture(scope="module")
def policy(assets) -> str:
    return str(assets / "stories260K")


@pytest.fixture(scope="module")
def tokenizer(policy):
    """The policy's, which the reward models share."""
    tokenizer = AutoTokenizer.from_pretrained(policy, padding_side="left")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny(tokenizer, labels: int, **options) -> LlamaConfig:
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(tokenizer)}
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    return LlamaConfig(**ids, **sizes, num_hidden_layers=1, num_labels=labels, **options)


@pytest.fixture(scope="module")
def orm(tokenizer, tmp_path_factory) -> str:
    """A foreign checkpoint: its config says nothing of this package."""
    model = LlamaForSequenceClassification(tiny(tokenizer, 1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        for index, token in enumerate(tokenizer.convert_ids_to_tokens(range(len(tokenizer)))):
            model.model.embed_tokens.weight[index, 0 if "e" in token else 1] = 1
        attention = model.model.layers[0].self_attn
        attention.v_proj.weight[2, 0] = attention.o_proj.weight[2, 2] = model.score.weight[0, 2] = 1
    return saved(model, tokenizer, tmp_path_factory.mktemp("orm") / "likes-e")


@pytest.fixture(scope="module")
def prm(tokenizer, tmp_path_factory) -> str:
    """Random weights; its steps end at full stops."""
    torch.manual_seed(0)
    model = LlamaForTokenClassification(tiny(tokenizer, 2))
    nn.init.normal_(model.score.weight)
    model.config.rewardplug = {"kind": "prm", "step_separator": "."}
    return saved(model, tokenizer, tmp_path_factory.mktemp("prm") / "steps")


def saved(model, tokenizer, folder) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class Recorder:
    """A reward function that gives nothing and keeps what TRL hands over."""

    def __init__(self):
        self.calls = []

    def __call__(self, prompts, completions, **kwargs):
        self.calls.append((prompts, completions))
        return [0.0] * len(prompts)


def conversation(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def trained(algorithm: str, policy: str, tokenizer, reward_funcs: list, folder, prompts: list = PROMPTS, **options):
    trainer_class, config_class = TRAINERS[algorithm]
    defaults = {
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "reward_weights": [1.0] + [0.0] * (len(reward_funcs) - 1),
    }
    set_seed(0)
    trainer = trainer_class(
        AutoModelForCausalLM.from_pretrained(policy),
        reward_funcs=reward_funcs,
        args=config_class(**quick(folder, **{**defaults, **options})),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


def logged(trainer, name: str, figure: str = "mean") -> list[float]:
    key = f"rewards/{name}/{figure}"
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def test_the_reward_made_by_hand_rises_with_the_share_of_liked_tokens(orm, tokenizer):
    scorer = RewardScorer.from_pretrained(orm)
    prompts, completions = ["Once upon"] * 3, ["boo", "a tree", " there she sees the"]
    shares = []
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens = tokenizer.convert_ids_to_tokens(
            scorer.encoder.completion({"prompt": prompt, "completion": completion})
        )
        shares.append(torch.tensor(["e" in token for token in tokens]).float().mean())
    average = 8**0.5 * torch.stack(shares)  # the first norm makes a 1 in 8 dimensions sqrt(8), and so does the last
    assert scorer(prompts, completions) == pytest.approx(
        (8**0.5 * average / (1 + average**2).sqrt()).tolist(), abs=1e-4
    )
    assert scorer.prefix_sharing and shares == sorted(shares)


def test_a_policy_learns_what_the_reward_model_likes(orm, policy, tokenizer, tmp_path):
    options = {"per_device_train_batch_size": 32, "num_generations": 8, "learning_rate": 3e-3, "max_steps": 12}
    scorer = RewardScorer.from_pretrained(orm)
    trainer = trained(
        "grpo", policy, tokenizer, [scorer], tmp_path, PROMPTS * 8, lr_scheduler_type="constant", **options
    )
    rewards = logged(trainer, "likes-e")
    first, last = sum(rewards[:3]) / 3, sum(rewards[-3:]) / 3
    assert len(rewards) == 12
    assert first < 1.8 and last > 2.2, rewards  # 1.51 of 2.67, the most, before the first step


@pytest.mark.parametrize("algorithm", TRAINERS)
@pytest.mark.parametrize("kind", ["orm", "prm"])
@pytest.mark.parametrize("shape", ["text", "conversations"])
def test_logged_rewards_are_the_scorers(algorithm, kind, shape, orm, prm, policy, tokenizer, tmp_path):
    scorer = RewardScorer.from_pretrained(orm if kind == "orm" else prm, aggregate="mean")
    recorder, prompts = Recorder(), PROMPTS if shape == "text" else [conversation(text) for text in PROMPTS]
    trainer = trained(algorithm, policy, tokenizer, [scorer, recorder], tmp_path, prompts)
    expected = [torch.tensor(scorer.score(*call)) for call in recorder.calls]
    name = "likes-e" if kind == "orm" else "steps"
    assert len(expected) == 2 and all(len(of_step) == 8 for of_step in expected)
    assert all(isinstance(completion, str if shape == "text" else list) for completion in recorder.calls[0][1])
    assert logged(trainer, name) == pytest.approx([of_step.mean().item() for of_step in expected], abs=1e-5)
    assert logged(trainer, name, "std") == pytest.approx([of_step.std().item() for of_step in expected], abs=1e-5)
    assert all(of_step.std() > 0 for of_step in expected)


def test_rewards_of_conversations_are_those_of_the_model_in_trls_hands(orm, policy, tokenizer, tmp_path):
    """TRL forwards a reward model padded. (Text it gives the model without BOS and EOS.)"""
    prompts = [conversation(text) for text in PROMPTS]
    model = AutoModelForSequenceClassification.from_pretrained(orm)
    scorer = RewardScorer.from_pretrained(orm)
    scorer.__name__ = "scorer"
    trainer = trained("grpo", policy, tokenizer, [scorer, model], tmp_path, prompts)
    for figure in ("mean", "std"):
        assert logged(trainer, "scorer", figure) == pytest.approx(logged(trainer, "likes-e", figure), abs=1e-5)


@pytest.mark.parametrize("kind", ["orm", "prm"])
def test_completions_that_are_empty_or_cut_off(kind, orm, prm, policy, tokenizer, tmp_path):
    scorer, recorder = RewardScorer.from_pretrained(orm if kind == "orm" else prm), Recorder()
    options = {"max_completion_length": 1, "generation_kwargs": {"forced_eos_token_id": tokenizer.eos_token_id}}
    trainer = trained("grpo", policy, tokenizer, [scorer, recorder], tmp_path, **options)
    assert set(recorder.calls[0][1]) == {""}
    expected = [sum(scorer.score(*call)) / 8 for call in recorder.calls]
    assert logged(trainer, scorer.__name__) == pytest.approx(expected, abs=1e-5)
    trainer = trained("grpo", policy, tokenizer, [scorer], tmp_path, max_completion_length=1, max_steps=1)
    assert torch.isfinite(torch.tensor(logged(trainer, scorer.__name__))).all()


def test_a_prms_steps_are_cut_from_what_the_policy_wrote(prm):
    scorer = RewardScorer.from_pretrained(prm, aggregate="prod")
    completions = ["She ran. She sat. Then she w", "She ran.", "", " . . ", "no stop"]
    steps = [["She ran", " She sat", " Then she w"], ["She ran"], None, None, ["no stop"]]
    found = scorer(["Lily"] * 5, completions)
    assert all(0 < reward < 1 for reward in found)
    expected = scorer.score_steps(["Lily"] * 3, [some for some in steps if some], aggregate="prod")
    assert [found[0], found[1], found[4]] == pytest.approx(expected, abs=1e-6)


def test_what_trl_hands_over_beside_the_texts_changes_nothing(orm):
    scorer = RewardScorer.from_pretrained(orm)
    plain = scorer(PROMPTS, ["a tree"] * 4)
    beside = {"completion_ids": [[1, 2]] * 4, "answer": ["x"] * 4, "trainer_state": object(), "log_extra": print}
    assert scorer(prompts=PROMPTS, completions=["a tree"] * 4, **beside, log_metric=print) == plain
    with torch.inference_mode():
        assert scorer(PROMPTS, ["a tree"] * 4) == plain
    assert scorer(PROMPTS, ["a tree"] * 4) == plain


def test_trl_takes_it_for_a_plain_function_with_a_name(orm):
    scorer = RewardScorer.from_pretrained(orm)
    assert scorer.__name__ == "likes-e" and not isinstance(scorer, nn.Module)
    assert not inspect.iscoroutinefunction(scorer.__call__)
    assert all(type(reward) is float for reward in scorer(PROMPTS, ["a tree"] * 4))
    scorer.__name__ = "mine"  # two of the same name would be one figure
    assert scorer.__name__ == "mine"


def test_the_name_is_the_folders(orm, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(orm)
    assert RewardScorer.from_pretrained(".").__name__ == "likes-e"
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS")
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(orm), lora)
    model.config.save_pretrained(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "reward_config.json")
    assert RewardScorer.from_pretrained(saved(model, tokenizer, tmp_path)).__name__ == tmp_path.name


@pytest.mark.skipif(is_kernels_available(), reason="the functions that `kernels` wraps cannot be pickled")
def test_a_pickled_scorer_scores(orm):
    scorer, completions = RewardScorer.from_pretrained(orm), ["a tree", "", "She ran", "Sh"]
    assert pickle.loads(pickle.dumps(scorer))(PROMPTS, completions) == scorer(PROMPTS, completions)


# ---- a PRM and the turns of a tool-calling policy --------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {}}}


def test_a_prm_sees_every_turn_of_a_completion(prm):
    turns = [{"role": "assistant", "content": "Which?"}, {"role": "tool", "content": "Both."}]
    last, scorer = {"role": "assistant", "content": "One. Two."}, RewardScorer.from_pretrained(prm)
    assert scorer([[USER]], [[*turns, last]]) == scorer([[USER, *turns]], [[last]])


def test_a_prm_takes_a_turn_that_only_calls_a_tool(prm):
    scorer = RewardScorer.from_pretrained(prm)
    assert scorer([[USER]], [[{"role": "assistant", "tool_calls": [CALL]}]]) == scorer([[USER]], [""])


def test_a_prm_takes_a_conversation_without_a_prompt(prm):
    scorer = RewardScorer.from_pretrained(prm)
    assert scorer([""], [[USER, {"role": "assistant", "content": "a"}]]) == scorer([[USER]], ["a"])
    assert scorer([""], [[{"role": "assistant", "content": "a"}]]) == scorer([""], ["a"])


def test_a_prm_cuts_at_a_separator_of_its_users(prm):
    """TRL decodes without special tokens, so a reserved step token never reaches a reward function."""
    scorer, asked = RewardScorer.from_pretrained(prm), RewardScorer.from_pretrained(prm, separator=" || ")
    joined = scorer.separator.join(["a", "b"])
    assert asked([""], ["a || b"]) == scorer([""], [joined]) != scorer([""], ["a || b"])
