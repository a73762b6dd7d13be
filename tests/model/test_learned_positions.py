"""How long a text may be where a model has a table of positions: what its own forward takes and what it refuses."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from hf_rewardplug.model.positions import learned_positions

MOST = 24
SIZES = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 16
    ),
    **dict.fromkeys(
        ("word_embed_proj_dim", "intermediate_size", "ffn_dim", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 16
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), MOST),
    **{"vocab_size": 32, "num_labels": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    **{"rotary_dim": 4, "head_dim": 8},
}
TABLES = {
    **dict.fromkeys(
        ("albert", "bart", "bert", "biogpt", "canine", "ctrl", "deberta", "deberta-v2", "distilbert"), MOST
    ),
    **dict.fromkeys(("electra", "gpt2", "gpt_bigcode", "gptj", "mpt", "nystromformer", "openai-gpt", "opt"), MOST),
    **dict.fromkeys(("distilbert", "roformer", "xlm"), MOST),
    **dict.fromkeys(("camembert", "ibert", "mpnet", "roberta", "xlm-roberta"), MOST - 2),  # behind the pad token's row
}
COMPUTED = {
    "bloom": {},
    "deberta-v2": {"position_biased_input": False, "relative_attention": True},
    "esm": {"position_embedding_type": "rotary"},
    "gpt_neox": {},
    "llama": {},
}


def config_of(kind: str, **options):
    config_class = CONFIG_MAPPING[kind]
    known = {**vars(config_class()), **getattr(config_class, "attribute_map", {})}
    return config_class(
        **{name: size for name, size in SIZES.items() if name in known or name == "num_labels"}, **options
    )


def takes(model, tokens: int) -> bool:
    ids = torch.full((1, tokens), 5)
    ids[0, -1] = 2  # BART wants its EOS
    try:
        with torch.no_grad():
            return len(model(ids).logits) == 1
    except (IndexError, RuntimeError):
        return False


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_bounds_a_text(kind, tmp_path):
    config = config_of(kind)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert learned_positions(model) == TABLES[kind]
    assert takes(model, TABLES[kind]) and not takes(model, TABLES[kind] + 1)
    config.save_pretrained(tmp_path)
    assert learned_positions(str(tmp_path)) == TABLES[kind]


@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_positions_do_not(kind, tmp_path):
    """`max_position_embeddings` is then a length of training alone."""
    config = config_of(kind, **COMPUTED[kind])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    assert learned_positions(model) is None and takes(model, 3 * MOST)
    config.save_pretrained(tmp_path)
    assert learned_positions(str(tmp_path)) is None


def test_adapters():
    """Virtual tokens take positions, and PEFT may have wrapped the table."""
    virtual = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    model = AutoModelForSequenceClassification.from_config(config_of("bert")).eval()
    assert learned_positions(model, virtual) == MOST - 3
    adapted = get_peft_model(model, virtual)
    assert learned_positions(adapted) == MOST - 3 and takes(adapted, MOST - 3) and not takes(adapted, MOST - 2)
    for options in ({"target_modules": ["c_attn", "wpe"]}, {"target_modules": ["c_attn"], "modules_to_save": ["wpe"]}):
        model = AutoModelForSequenceClassification.from_config(config_of("gpt2"))
        assert learned_positions(get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **options))) == MOST
