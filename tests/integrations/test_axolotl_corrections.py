"""What the plugin sets right before axolotl reads a config, and what it refuses; `with_axolotl/` runs the real one."""

import pytest

from hf_rewardplug.integrations.axolotl.corrections import correct

FUSED = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


def corrected(kind: str, **given) -> dict:
    assert correct(given, kind) == []
    return given


def test_plain_configs_are_left_alone():
    given = {"base_model": "m", "reward_model": True, "sequence_len": 64, "eval_sequence_len": 64, "liger_rope": True}
    assert corrected("orm", **given) == given


def test_adapters_get_no_fused_kernels_and_no_quantized_head():
    found = corrected("prm", adapter="qlora", load_in_4bit=True, bnb_config_kwargs={"bnb_4bit_quant_type": "fp4"})
    assert [found[key] for key in FUSED] == [False] * 4
    assert found["bnb_config_kwargs"] == {"bnb_4bit_quant_type": "fp4", "llm_int8_skip_modules": ["score"]}
    assert "bnb_config_kwargs" not in corrected("orm", adapter="lora", load_in_8bit=True)
    assert corrected("prm", adapter="lora", good_token="+", bad_token="-", lora_o_kernel=True)["lora_o_kernel"] is True


def test_values_as_text_are_read():
    off = {
        "adapter": "lora",
        "load_in_8bit": "false",
        "streaming": "false",
        "sequence_len": "9",
        "eval_sequence_len": 9,
    }
    assert corrected("prm", **off)["load_in_8bit"] == "false"
    assert corrected("orm", attributes=["a", "b"], num_labels="2", loss_type="mse")["num_labels"] == 2


def test_heads_by_their_options():
    head = corrected("prm", adapter="qlora", good_token="+", bad_token="-")["bnb_config_kwargs"]
    assert head == {"llm_int8_skip_modules": ["lm_head"]}
    assert corrected("prm", good_token="+", bad_token="-")["model_type"] == "AutoModelForCausalLM"
    assert corrected("orm", attributes=["a", "b"], loss_type="mse")["num_labels"] == 2


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("orm", {"step_token": "<s>"}, "`step_token` is not an option of outcome reward models"),
        ("prm", {"attributes": ["a"]}, "`attributes` is not an option of process reward models"),
        ("orm", {"prefix_sharign": False}, "Did you mean `prefix_sharing`?"),
        ("orm", {"column_mapping": {"prompt": "input"}}, "set it in an entry of `datasets`"),
        ("orm", {"adapter": "lora", "lora_mlp_kernel": True}, "`lora_mlp_kernel` is for causal LMs alone"),
        ("prm", {"adapter": "lora", "load_in_8bit": True}, "take `adapter: qlora` with `load_in_4bit: true`"),
        ("orm", {"prefix_sharing": "maybe"}, "`prefix_sharing` is 'maybe'; expected true or false"),
        ("orm", {"merge_lora": True}, "leaves the reward head out"),
        ("orm", {"streaming": True}, "`streaming`: no streams of axolotl's are read"),
        ("orm", {"context_parallel_size": 2}, "`context_parallel_size`: sequences are not cut over devices here"),
        ("prm", {"activation_offloading": True}, "`activation_offloading`: activations are recomputed here"),
        ("orm", {"attributes": ["a", "b"], "num_labels": 3}, "`num_labels: 3`; `attributes` has 2"),
    ],
)
def test_what_would_go_wrong_in_silence_is_an_error(kind, given, message):
    with pytest.raises(ValueError) as error:
        correct(given, kind)
    assert message in str(error.value)


def test_a_key_that_only_another_plugin_may_know_is_told():
    (warning,) = correct({"sequnce_len": 64}, "orm")
    assert "Did you mean `sequence_len`?" in warning
