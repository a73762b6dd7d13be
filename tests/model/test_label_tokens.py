"""Two rows of an LM head at score positions, against transformers' logits of the whole vocabulary."""

import copy
import functools
import types

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from families import CONFIGS, SIZES
from peft import LoraConfig, PromptTuningConfig, TrainableTokensConfig, get_peft_model
from test_attention import batches, random_rows, scored
from transformers import AutoModelForCausalLM, AutoTokenizer, CohereConfig, GPT2Config, GraniteConfig, LlamaForCausalLM

from hf_rewardplug.model.attention import FAMILIES, share_prefixes
from hf_rewardplug.model.head import behind_virtual_tokens, step_probabilities
from hf_rewardplug.model.kinds import LM
from hf_rewardplug.model.label_tokens import install_label_tokens, label_token_ids
from hf_rewardplug.model.loading import reward_peft_config

BAD_GOOD = [5, 9]
LANGUAGE_MODELS = {
    **{name: config for name, config in CONFIGS.items() if "window" not in name and "one key" not in name},
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, logits_scaling=3.0),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64),
}
"""each with what its family does to logits, so strong that it shows"""


def build(family: str, prepare=lambda model: model, **options):
    """The same weights at every call."""
    torch.manual_seed(0)
    config = copy.deepcopy(LANGUAGE_MODELS[family])
    if hasattr(config, "final_logit_softcapping"):
        config.final_logit_softcapping = 0.05
    for name, value in options.items():
        setattr(config, name, value)
    return prepare(AutoModelForCausalLM.from_config(config).eval())


def of_whole_vocabulary(model, batch: dict) -> torch.Tensor:
    """The slow twin: logits_BLV of a padded batch, and of these the two columns at the score positions."""
    logits_BLV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits_BLV.flatten(0, 1)[batch["score_positions"]][:, BAD_GOOD]


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
def test_scores_are_the_softmax_of_two_columns(family):
    model, (padded, _) = build(family), batches("prm", random_rows("prm"))
    expected = of_whole_vocabulary(model, padded)
    everything = model(input_ids=padded["input_ids"]).logits
    install_label_tokens(model, BAD_GOOD)
    found = scored(model, padded)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(step_probabilities(found), expected.softmax(-1)[:, 1], rtol=0, atol=1e-6)
    assert torch.equal(model(input_ids=padded["input_ids"]).logits, everything)
    if hasattr(model.config, "final_logit_softcapping"):
        assert expected.abs().max() < 0.05, "the cap shows"


@pytest.mark.parametrize("family", [name for name, config in LANGUAGE_MODELS.items() if config.model_type in FAMILIES])
def test_packed_is_the_whole_vocabulary_of_the_padded_batch(family):
    """Scores within 1e-5, gradients within 1e-4 relative."""
    plain, shared = build(family), build(family)
    padded, packed = batches("prm", random_rows("prm"))
    install_label_tokens(shared, BAD_GOOD)
    assert share_prefixes(shared) is None
    expected, found = of_whole_vocabulary(plain, padded), scored(shared, packed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for logits in (expected, found):
        (logits * weights).sum().backward()
    for (name, a), b in zip(plain.named_parameters(), shared.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-7, name


def test_a_mixture_of_experts_that_asks_for_its_router_s_loss():
    """It would read the packed row's mask, and no trainer takes that loss."""
    plain, model = (build("mixtral", output_router_logits=True) for _ in range(2))
    padded, packed = batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    assert share_prefixes(model) is None
    torch.testing.assert_close(scored(model, packed), of_whole_vocabulary(plain, padded), rtol=0, atol=1e-5)


def test_nothing_else_of_the_vocabulary_is_computed():
    model, (padded, _) = build("llama"), batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    shapes = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    scored(model, padded).sum().backward()
    model(input_ids=padded["input_ids"])
    assert shapes == [(len(padded["score_positions"]), 2), (*padded["input_ids"].shape, 64)]
    assert model.lm_head.weight.grad.abs().sum(1).nonzero().flatten().tolist() == BAD_GOOD


def large_tensors_made(loss: torch.Tensor, shape: torch.Size) -> int:
    """How often the backward fills a tensor as large as the weight with zeros, or adds two into a new one.

    The profiler sees it; under a dispatch mode torch would add nothing in place.
    """
    with torch.profiler.profile(record_shapes=True) as profiler:
        loss.backward()
    events = [event for event in profiler.events() if [*shape] in event.input_shapes]
    filled = sum(event.name == "aten::zero_" for event in events)
    return filled + sum(event.name == "aten::add" and event.cpu_parent.name != "aten::add_" for event in events)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_a_gradient_of_two_rows_makes_no_other_of_the_whole_vocabulary(tied, dtype):
    """An embedding makes a large gradient in each backward, and takes the rows in where it shares the weight.

    Any other LM head makes a large gradient in the first micro-batch, which the optimizer needs. Later ones add rows.
    """
    plain, model = (build("qwen2", tie_word_embeddings=tied, dtype=dtype) for _ in range(2))
    padded, _ = batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    weight = model.lm_head.weight
    for expected in (1, 1) if tied else (2, 1):
        of_whole_vocabulary(plain, padded).float().square().sum().backward()
        assert large_tensors_made(scored(model, padded).square().sum(), weight.shape) == expected
        assert weight.grad.layout is torch.strided and weight.grad.dtype == weight.dtype
    for (name, a), b in zip(plain.named_parameters(), model.parameters(), strict=True):
        tolerance = 1e-4 if dtype == torch.float32 else 3e-2
        assert (a.grad.float() - b.grad.float()).norm() <= tolerance * a.grad.float().norm() + 1e-7, name
    torch.optim.AdamW(model.parameters()).step()


def test_a_copied_or_pickled_weight_has_a_dense_gradient(tmp_path):
    model, (padded, _) = build("qwen2", tie_word_embeddings=False), batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    torch.save(model.lm_head.weight, tmp_path / "weight.pt")
    twin = copy.deepcopy(model)
    model.lm_head.weight = torch.load(tmp_path / "weight.pt", weights_only=True)
    for other in (twin, model):
        scored(other, padded).sum().backward()
        assert other.lm_head.weight.grad.layout is torch.strided
        assert other.lm_head.weight.grad.abs().sum(1).nonzero().flatten().tolist() == BAD_GOOD


def test_fp32_in_a_bf16_body_and_under_autocast():
    model, (padded, _) = build("llama", lambda model: model.bfloat16()), batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = scored(model, padded)
    assert model.lm_head.weight.dtype == torch.bfloat16 and found.dtype == torch.float32
    expected = seen[0].flatten(0, 1)[padded["score_positions"]].float() @ model.lm_head.weight[BAD_GOOD].float().T
    torch.testing.assert_close(found, expected)


def test_a_saved_folder_has_no_trace_and_generates(tmp_path):
    model, ids = build("gemma2"), torch.tensor([[7, 8, 9]])
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    keys = set(model.state_dict())
    install_label_tokens(model, BAD_GOOD)
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), expected)
    assert set(model.state_dict()) == keys
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.architectures == ["Gemma2ForCausalLM"] and type(loaded.lm_head) is torch.nn.Linear
    assert torch.equal(loaded.generate(ids, max_new_tokens=4, do_sample=False), expected)


def test_installing_again_and_copying():
    model, (padded, _) = build("llama"), batches("prm", random_rows("prm"))
    install_label_tokens(model, [1, 2])
    install_label_tokens(model, BAD_GOOD)
    expected = scored(model, padded)
    torch.testing.assert_close(expected, of_whole_vocabulary(model, padded))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert scored(twin, padded).abs().max() == 0
    torch.testing.assert_close(scored(model, padded), expected)


def test_a_head_with_accelerates_hook():
    """As `device_map` over several devices leaves it: the hook calls the forward that it found."""
    model, (padded, _) = build("llama"), batches("prm", random_rows("prm"))
    expected = of_whole_vocabulary(model, padded)
    add_hook_to_module(model.lm_head, AlignDevicesHook("cpu"))
    install_label_tokens(model, BAD_GOOD)
    torch.testing.assert_close(scored(model, padded), expected)


def test_torch_compile():
    model, (padded, _) = build("llama"), batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(scored(compiled, padded), of_whole_vocabulary(model, padded))


def test_an_error_leaves_an_ordinary_model():
    model, (padded, _) = build("llama"), batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    with pytest.raises(IndexError):
        model(input_ids=padded["input_ids"], score_positions=torch.tensor([10_000]))
    assert model(input_ids=padded["input_ids"]).logits.shape == (*padded["input_ids"].shape, 64)


# ---- PEFT ------------------------------------------------------------------------------------------------------------


def adapted(**options):
    def prepare(model):
        torch.manual_seed(1)
        config = reward_peft_config(LoraConfig(r=2, init_lora_weights=False, **options), LM)
        return get_peft_model(model, config).eval()

    return prepare


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("tied", [False, True])
def test_lora_and_a_copied_head(options, tied):
    prepare = adapted(target_modules="all-linear", **options)
    plain, model = (build("qwen2", prepare, tie_word_embeddings=tied) for _ in range(2))
    padded, _ = batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert any("lm_head" in name for name in trained) == bool(options) and not any("score" in name for name in trained)
    expected, found = of_whole_vocabulary(plain, padded), scored(model, padded)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for logits in (expected, found):
        logits.square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), model.parameters(), strict=True):
        if a.requires_grad:
            assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-9, name


def test_prompt_tuning():
    def prepare(model):
        torch.manual_seed(1)
        return get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()

    model, (padded, _) = build("llama", prepare), batches("prm", random_rows("prm"))
    logits_BLV = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits
    expected = logits_BLV[:, 3:].flatten(0, 1)[padded["score_positions"]][:, BAD_GOOD]
    install_label_tokens(model, BAD_GOOD)
    padded["score_positions"] = behind_virtual_tokens(model, **padded)
    torch.testing.assert_close(scored(model, padded), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [LoraConfig(r=2, target_modules=["q_proj", "lm_head"]), TrainableTokensConfig(token_indices=[5])],
    ids=["lora", "trainable tokens"],
)
def test_a_wrapped_lm_head_is_refused(config):
    model = get_peft_model(build("llama", tie_word_embeddings=True), config)
    with pytest.raises(ValueError, match=r"The LM head 'lm_head' is a peft\..*`modules_to_save=\['lm_head'\]` trains"):
        install_label_tokens(model, BAD_GOOD)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_tokens_of_another_model():
    with pytest.raises(ValueError, match=r"the ids \[5, 64\], but the LM head has 64 rows"):
        install_label_tokens(build("llama"), [5, 64])


def test_a_model_that_does_not_call_its_head():
    class Own(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return types.SimpleNamespace(logits=torch.nn.functional.linear(hidden, self.lm_head.weight))

    model, (padded, _) = Own(copy.deepcopy(CONFIGS["llama"])), batches("prm", random_rows("prm"))
    install_label_tokens(model, BAD_GOOD)
    with pytest.raises(RuntimeError, match="Own computes its logits without calling its LM head"):
        scored(model, padded)


tokenizer_of = functools.cache(AutoTokenizer.from_pretrained)


@pytest.mark.parametrize(
    ("name", "good", "bad", "names"),
    [
        ("tokenizers/qwen2_5", "+", "-", ["-", "+"]),
        ("tokenizers/qwen2_5", " +", " -", ["Ġ-", "Ġ+"]),
        ("tokenizers/gemma2", "▁+", "-", ["-", "▁+"]),
        ("tokenizers/llama3_1", "<|reserved_special_token_0|>", "no", ["no", "<|reserved_special_token_0|>"]),
        ("stories260K", "the", "a", ["▁a", "▁the"]),  # "a" alone is a token too, but no text gives it
        ("stories260K", "+", "-", ["-", "+"]),  # the text gives ▁ and +
    ],
)
def test_tokens_are_what_a_text_gives(name, good, bad, names, assets):
    tokenizer = tokenizer_of(assets / name)
    ids = label_token_ids(tokenizer, good, bad)
    assert tokenizer.convert_ids_to_tokens(ids) == names
    assert label_token_ids(tokenizer, *reversed(names)) == ids, "the names are what a checkpoint remembers"
    assert [tokenizer.encode(text, add_special_tokens=False)[-1] for text in (bad, good)] == list(ids)


def test_texts_that_are_no_token(assets):
    tokenizer, gemma = (tokenizer_of(assets / "tokenizers" / name) for name in ("qwen2_5", "gemma2"))
    with pytest.raises(ValueError, match=r"bad_token='quite wrong' is not a single token: .* \['quite', 'Ġwrong'"):
        label_token_ids(tokenizer, "+", "quite wrong")
    with pytest.raises(ValueError, match=r"good_token='' is not a single token"):
        label_token_ids(tokenizer, "", "-")
    with pytest.raises(ValueError, match=r"good_token=' \+' and bad_token='▁\+' are the same token, '▁\+'"):
        label_token_ids(gemma, " +", "▁+")
