"""What a scorer is given in the wild: odd texts, foreign checkpoints and models, a model that is training, threads."""

import copy
import threading

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
)

from hf_rewardplug import RewardScorer
from hf_rewardplug.data.chat_templates import set_chat_template

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
HEADS = {"orm": (AutoModelForSequenceClassification, 1), "prm": (AutoModelForTokenClassification, 2)}
ODD = ["", " ", "\n", "a", "ab", "a", "a b", "a b c", "e\u0301é 🤖", "\x00", "\ufffd", "x\r\ny", "a</s>", "z " * 400]
USER, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}


def model_of(config, kind: str = "orm", num_labels: int | None = None):
    """Random weights, the same at every call, with a head that tells completions apart."""
    auto_class, expected = HEADS[kind]
    config = copy.deepcopy(config)
    config.num_labels = num_labels or expected
    torch.manual_seed(0)
    model = auto_class.from_config(config)
    for name, parameter in model.named_parameters():
        if name.startswith(("score", "classifier")):
            nn.init.normal_(parameter)
    return model.eval()


def llama(tokenizer, **options) -> LlamaConfig:
    return LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "vocab_size": len(tokenizer), **options})


@pytest.fixture(params=["stories260K", "tokenizers/gemma2", "tokenizers/qwen2_5", "tokenizers/llama3_1"])
def any_tokenizer(request, assets):
    return AutoTokenizer.from_pretrained(str(assets / request.param))


@pytest.fixture
def tokenizer(assets):
    return AutoTokenizer.from_pretrained(str(assets / "stories260K"))


@pytest.fixture
def chat_tokenizer(assets):
    return AutoTokenizer.from_pretrained(str(assets / "tokenizers" / "qwen2_5"))


@pytest.fixture
def orm(tokenizer):
    return RewardScorer(model_of(llama(tokenizer)), tokenizer)


@pytest.fixture
def prm(tokenizer):
    return RewardScorer(model_of(llama(tokenizer), "prm"), tokenizer)


def assert_one_by_one_is_all_at_once(model, tokenizer, completions=ODD, **options):
    scorer = RewardScorer(model, tokenizer, **options)
    alone = [scorer.score("Hi", [completion])[0] for completion in completions]
    assert scorer.score("Hi", completions) == pytest.approx(alone, abs=1e-5)
    assert scorer.score(["Hi", "Ho"], [completions, completions[:3]])[0] == pytest.approx(alone, abs=1e-5)
    return alone


# ---- texts and shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_odd_texts_alone_together_padded_and_in_batches_of_one(any_tokenizer, kind):
    """Equal completions, prefixes of one another, empty ones, one longer than the budget."""
    found = [
        assert_one_by_one_is_all_at_once(model_of(llama(any_tokenizer), kind), any_tokenizer, **options)
        for options in ({}, {"prefix_sharing": False}, {"max_tokens_per_batch": 1}, {"max_tokens_per_batch": 100})
    ]
    for others in found[1:]:
        assert others == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_a_tokenizer_without_special_tokens(tokenizer, kind):
    tokenizer.eos_token = tokenizer.bos_token = tokenizer.pad_token = None
    model = model_of(llama(tokenizer, pad_token_id=None), kind)
    for sharing in (True, False):
        assert_one_by_one_is_all_at_once(model, tokenizer, [text for text in ODD if text], prefix_sharing=sharing)
        assert len(RewardScorer(model, tokenizer).score("Hi", ["", "a"])) == 2


@pytest.mark.parametrize("kind", HEADS)
def test_gemmas_template_with_a_system_turn(assets, kind):
    tokenizer = AutoTokenizer.from_pretrained(str(assets / "tokenizers" / "gemma2"))
    set_chat_template(tokenizer, "gemma")
    scorer = RewardScorer(model_of(llama(tokenizer), kind), tokenizer)
    folded = [{"role": "user", "content": "Be brief.\n\nHi"}]
    assert scorer.score([SYSTEM, USER], ["a", ""]) == scorer.score(folded, ["a", ""])
    with pytest.raises(ValueError, match=r"completions\[0\]\[0\]: the chat template refuses"):
        scorer.score([USER, USER], ["a", ""])


def test_generators_tuples_and_arrays(orm):
    expected = orm.score(["p", "q"], [["a", "b"], ["c"]])
    assert orm.score((prompt for prompt in "pq"), (row for row in (("a", "b"), ["c"]))) == expected
    assert orm.score(np.array(["p", "q"]), [("a", "b"), ("c",)]) == expected
    assert orm.score(["p", "q"], [[], ["c"]]) == [[], pytest.approx(expected[1])]
    assert orm.score([], []) == [] and list(orm.score_rows([])) == []


def test_generators_tuples_and_arrays_within(orm, prm):
    expected = orm.score(["p", "q"], [["a", "b"], ["c", "d"]])
    assert orm.score(["p", "q"], np.array([["a", "b"], ["c", "d"]])) == expected
    assert orm.score("p", (completion for completion in "ab")) == pytest.approx(expected[0], abs=1e-5)
    assert prm.score_steps(["p"], [("a", "b")]) == prm.score_steps(["p"], [["a", "b"]])


def test_one_text_is_no_list_of_completions(orm):
    with pytest.raises(ValueError, match="completions"):
        orm.score(["p", "q", "r"], "abc")


def test_rows_whose_other_columns_are_none(orm):
    rows = [{"prompt": "p", "completion": "a"}, {"prompt": "q", "completions": ["b", "c"]}]
    data = Dataset.from_list([{"completions": None, **rows[0]}, rows[1]])
    assert data[1]["completion"] is None
    assert list(orm.score_rows(data)) == list(orm.score_rows(rows))


def test_rows_without_a_prompt_say_so(orm, prm):
    for scorer, item in ((orm, {"completion": "a"}), (orm, {"completions": ["a"]}), (prm, {"steps": ["a"]})):
        empty, none = ({"prompt": prompt, **item} for prompt in ("", None))
        assert list(scorer.score_rows([empty])) == list(scorer.score_rows([none]))
        with pytest.raises(ValueError, match=r"row 1: found \['comp.*|row 1: found \['steps'\]; expected 'prompt'"):
            list(scorer.score_rows([empty, item]))


def test_numbers_that_make_no_sense(orm):
    with pytest.raises(ValueError, match="window=0"):
        list(orm.score_rows([{"prompt": "p", "completion": "a"}], window=0))
    with pytest.raises(ValueError, match="max_tokens_per_batch=0"):
        RewardScorer(orm.model, orm.tokenizer, max_tokens_per_batch=0)
    with pytest.raises(TypeError, match="max_tokens_per_batch='16'"):
        RewardScorer(orm.model, orm.tokenizer, max_tokens_per_batch="16")
    unlimited = RewardScorer(orm.model, orm.tokenizer, max_tokens_per_batch=None)
    assert unlimited.score("p", ["a", "b"]) == orm.score("p", ["a", "b"])


@pytest.mark.parametrize("kind", HEADS)
def test_tools_of_a_row_are_in_its_prompt(chat_tokenizer, kind):
    scorer = RewardScorer(model_of(llama(chat_tokenizer), kind), chat_tokenizer)
    rows = [{"prompt": [USER], "completion": [{"role": "assistant", "content": "4"}]}]
    with_tools = [{**row, "tools": [{"type": "function", "function": {"name": "add"}}]} for row in rows]
    assert next(scorer.score_rows(rows)) != next(scorer.score_rows(with_tools))


# ---- models ----------------------------------------------------------------------------------------------------------

BOTH_SIDES = {"max_position_embeddings": 512, "vocab_size": 512, "pad_token_id": 0}
PADDED = {
    "bert": BertConfig(**SIZES, **BOTH_SIDES),
    "roberta": AutoConfig.for_model("roberta", **SIZES, **{**BOTH_SIDES, "pad_token_id": 1}),
    "deberta-v2": AutoConfig.for_model("deberta-v2", **SIZES, **BOTH_SIDES),
    "modernbert": AutoConfig.for_model("modernbert", **SIZES, **BOTH_SIDES),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=512),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", PADDED)
def test_models_without_prefix_trees_are_padded(name, kind, tokenizer):
    model, texts = model_of(PADDED[name], kind), ODD[:-1]
    scores = set(assert_one_by_one_is_all_at_once(model, tokenizer, texts))
    saturated = name == "modernbert" and Version(transformers.__version__) < Version("5.20")  # its first head is large
    assert saturated or len(scores) > 4
    assert not RewardScorer(model, tokenizer).prefix_sharing


@pytest.mark.parametrize("family", ["gemma2", "qwen2", "mistral", "phi3"])
def test_windows_and_soft_caps(family, tokenizer):
    """What `families.py` tests of a batch, here from texts: short windows, and every completion alone."""
    options = {"num_key_value_heads": 2, "vocab_size": 512, "pad_token_id": 0, "sliding_window": 4}
    if family == "qwen2":
        options |= {"use_sliding_window": True, "max_window_layers": 1}
    model = model_of(AutoConfig.for_model(family, **SIZES, **options))
    alone = assert_one_by_one_is_all_at_once(model, tokenizer)
    with torch.no_grad():
        ids = [RewardScorer(model, tokenizer).encoder.completion({"prompt": "Hi", "completion": text}) for text in ODD]
        expected = [model(torch.tensor([one]), use_cache=False).logits.item() for one in ids]
    assert alone == pytest.approx(expected, abs=2e-5)


def test_bf16_is_near_fp32_and_has_no_ties(tokenizer):
    model, texts = model_of(llama(tokenizer)), list(dict.fromkeys(ODD[:-1]))
    exact = RewardScorer(copy.deepcopy(model), tokenizer).score("Hi", texts)
    for sharing in (True, False):
        scorer = RewardScorer(copy.deepcopy(model).bfloat16(), tokenizer, prefix_sharing=sharing)
        found = scorer.score("Hi", texts)
        assert found == pytest.approx(exact, abs=0.2) and len(set(found)) == len(set(exact))


@pytest.mark.parametrize("name, positions", [("bert", 512), ("roberta", 510), ("gpt2", 1024)])
def test_more_tokens_than_learned_positions(name, positions, tokenizer):
    scorer = RewardScorer(model_of(PADDED[name]), tokenizer)
    word = " a" if len(tokenizer.tokenize(" a a")) == 2 else "a "
    fits = word * (positions - len(scorer.encoder.completion({"prompt": "", "completion": ""})) - 3)
    assert len(scorer.score("", [fits])) == 1
    with pytest.raises(ValueError, match=rf"completions\[0\]\[1\]: \d+ tokens are more than the model's {positions}"):
        scorer.score("", ["a", word * 2 * positions])


def test_pooling_that_skips_the_eos_is_refused(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    options = {**SIZES, "vocab_size": 512, "pad_token_id": tokenizer.eos_token_id}
    model = model_of(AutoConfig.for_model("modernbert-decoder", **options))
    with pytest.raises(ValueError, match="pads with its EOS"):
        RewardScorer(model, tokenizer)


def test_models_that_are_no_reward_models(tokenizer):
    with pytest.raises(ValueError, match="3 labels"):
        RewardScorer(model_of(llama(tokenizer), "prm", num_labels=3), tokenizer)
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        RewardScorer(AutoModelForCausalLM.from_config(llama(tokenizer, num_labels=1)), tokenizer)


# ---- modes, threads, copies ------------------------------------------------------------------------------------------


def test_a_model_that_trains_is_left_as_it_was(tokenizer):
    model = model_of(llama(tokenizer)).train()
    scorer, ids = RewardScorer(model, tokenizer), torch.tensor([[1, 5, 6]])
    model(ids, use_cache=False).logits.sum().backward()
    gradient, random_state = model.score.weight.grad.clone(), torch.get_rng_state()
    scorer.score("p", ["a", "b"])
    with pytest.raises(ValueError):
        scorer.score("p", [None])
    assert all(module.training for module in model.modules()) and torch.equal(model.score.weight.grad, gradient)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_frozen_body_stays_in_eval_mode(tokenizer):
    model = model_of(llama(tokenizer)).train()
    model.model.eval()
    RewardScorer(model, tokenizer).score("p", ["a", "b"])
    assert model.training and model.score.training and not model.model.training


def test_threads(orm):
    assert_threads_agree(orm)


def test_threads_with_a_model_that_trains(tokenizer):
    model = model_of(BertConfig(**SIZES, **BOTH_SIDES, hidden_dropout_prob=0.5)).train()
    assert_threads_agree(RewardScorer(model, tokenizer))
    assert model.training


def assert_threads_agree(scorer, threads: int = 6):
    expected, found = scorer.score("Hi", ["a", "b c"] * 8), []
    workers = [
        threading.Thread(target=lambda: found.extend(scorer.score("Hi", ["a", "b c"] * 8) for _ in range(20)))
        for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 20 * threads and all(scores == pytest.approx(expected, abs=1e-5) for scores in found)


def test_a_deep_copy_scores_by_itself(orm):
    copied, expected = copy.deepcopy(orm), orm.score("Hi", ODD)
    nn.init.zeros_(orm.model.score.weight)
    assert copied.score("Hi", ODD) == pytest.approx(expected, abs=1e-6)


def test_normalised_rewards_without_spread(orm):
    orm.model.config.rewardplug = {"kind": "orm", "calibration": {"mean": 1.0, "std": 0.0}}
    scorer = RewardScorer(orm.model, orm.tokenizer, normalize=True)
    assert scorer.score("p", ["a"]) == pytest.approx([orm.score("p", ["a"])[0] - 1.0], abs=1e-6)
