"""Liger's kernels in the body of a reward model against the same model without them; without a GPU interpreted."""

import copy
import sys

import pytest
import torch
from families import CONFIGS, build
from peft import LoraConfig, get_peft_model
from test_attention import batches, random_rows, scored
from transformers import AutoModelForCausalLM
from transformers.integrations.liger import apply_liger_kernel

pytest.importorskip("liger_kernel")
from interpreted import DEVICE, triton_here  # noqa: F401
from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

from hf_rewardplug.model import liger
from hf_rewardplug.model.attention import share_prefixes, unwrapped
from hf_rewardplug.model.head import install_reward_head
from hf_rewardplug.model.kinds import ORM
from hf_rewardplug.model.liger import register_liger
from hf_rewardplug.model.loading import reward_peft_config

ACCELERATED = [name for name, config in CONFIGS.items() if config.model_type in MODEL_TYPE_TO_APPLY_LIGER_FN]
ACCELERATED = [name for name in ACCELERATED if "window" not in name]  # which are attention's
EVERYDAY = {"llama", "qwen3", "gemma2"}  # plain, norms of queries and keys, soft-caps; Triton's interpreter is slow


def model_of(family: str, kind: str = "orm", prepare=lambda model: model):
    """The same weights at every call, none of them zero or one, where an offset would not show."""
    model = build(family, kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    model = prepare(model).to(DEVICE)
    install_reward_head(model)
    return model


def accelerated(model, **options):
    """As `Trainer.train` does it."""
    assert register_liger(model, DEVICE) is None
    apply_liger_kernel(model, options)
    return model


def patched(model) -> set[str]:
    """Classes of the modules whose forward is Liger's."""
    return {type(module).__name__ for module in model.modules() if hasattr(vars(module).get("forward"), "by_device")}


def scores_and_gradients(model, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = {key: value.to(DEVICE) if torch.is_tensor(value) else value for key, value in batch.items()}
    model.zero_grad()
    scores = scored(model, batch)
    (scores * torch.linspace(-1, 1, scores.numel(), device=DEVICE).view_as(scores)).sum().backward()
    return scores.detach(), {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }


def assert_computes_the_same(model, plain, batch: dict, plain_batch: dict | None = None):
    """Scores within 1e-5, gradients within 1e-4 relative."""
    scores, gradients = scores_and_gradients(model, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liger, "DEVICES", set())  # the rotary function is the whole family's
        expected, expected_gradients = scores_and_gradients(plain, batch if plain_batch is None else plain_batch)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        difference = (gradient - expected_gradients[name]).norm()
        assert difference <= 1e-4 * expected_gradients[name].norm() + 1e-7, name


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in EVERYDAY else pytest.mark.matrix) for name in ACCELERATED],
)
def test_packed_with_liger_is_padded_without(triton_here, family):  # noqa: F811
    padded, packed = batches("orm", random_rows("orm", count=2))
    plain, model = model_of(family), accelerated(model_of(family))
    assert share_prefixes(model) is None
    assert any("Norm" in name for name in patched(model)) and any(
        "MLP" in name or "Exp" in name for name in patched(model)
    )
    assert_computes_the_same(model, plain, packed, padded)


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_process_reward_models_and_padded_batches(triton_here, family):  # noqa: F811
    padded, _ = batches("prm", random_rows("prm", count=2))
    assert_computes_the_same(accelerated(model_of(family, "prm")), model_of(family, "prm"), padded)


@pytest.mark.parametrize("modules_to_save", [None, ["input_layernorm"]])
def test_lora(triton_here, modules_to_save):  # noqa: F811
    def with_lora(model):
        torch.manual_seed(1)
        config = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear", modules_to_save=modules_to_save)
        return get_peft_model(model, reward_peft_config(config, ORM))

    plain, model = model_of("gemma2", prepare=with_lora), accelerated(model_of("gemma2", prepare=with_lora))
    assert patched(model) == {"Gemma2RMSNorm", "Gemma2MLP"}
    assert_computes_the_same(model, plain, batches("orm", random_rows("orm", count=2))[0])


def test_partial_rotary_embeddings(triton_here, monkeypatch):  # noqa: F811
    """Phi-4-mini's: a part of each head is turned."""
    monkeypatch.setitem(CONFIGS["phi3"].rope_parameters, "partial_rotary_factor", 0.5)
    assert_computes_the_same(
        accelerated(model_of("phi3")), model_of("phi3"), batches("orm", random_rows("orm", count=2))[0]
    )


def test_options_are_passed_on(triton_here):  # noqa: F811
    model = accelerated(model_of("llama"), rms_norm=False, rope=False, fused_linear_cross_entropy=True)
    assert patched(model) == {"LlamaMLP"}
    assert_computes_the_same(model, model_of("llama"), batches("orm", random_rows("orm", count=2))[0])


def test_the_loss_of_language_models_is_left_alone(triton_here):  # noqa: F811
    """Liger's option for it replaces torch's own function in the whole process."""
    before = torch.nn.functional.cross_entropy
    accelerated(model_of("llama"), cross_entropy=True, fused_linear_cross_entropy=False)
    assert torch.nn.functional.cross_entropy is before


def test_another_activation_keeps_its_mlp(triton_here, caplog, monkeypatch):  # noqa: F811
    """Liger's SwiGLU computes SiLU whatever the config says."""
    monkeypatch.setattr(CONFIGS["llama"], "hidden_act", "gelu")
    model = accelerated(model_of("llama"))
    assert patched(model) == {"LlamaRMSNorm"} and "activation is 'gelu'" in caplog.text
    assert_computes_the_same(model, model_of("llama"), batches("orm", random_rows("orm", count=2))[0])


def test_other_models_of_the_process_are_left_alone(triton_here, monkeypatch):  # noqa: F811
    """Liger replaces the classes and the rotary function of the whole family's module."""
    before, modeling = model_of("llama"), sys.modules["transformers.models.llama.modeling_llama"]
    classes = {name: value for name, value in vars(modeling).items() if isinstance(value, type)}
    model = accelerated(model_of("llama"))
    assert {name: vars(modeling)[name] for name in classes} == classes
    monkeypatch.setattr(liger, "DEVICES", {"cuda"})
    monkeypatch.setattr("liger_kernel.transformers.rope.dispatch", None)  # no Triton from here on
    monkeypatch.setattr("liger_kernel.ops.rms_norm.rms_norm_forward", None)
    on_the_cpu, batch = model.cpu(), batches("orm", random_rows("orm", count=2))[0]
    for other in (model_of("llama"), before.cpu(), on_the_cpu):
        assert torch.isfinite(scored(other.cpu(), batch)).all()


def test_twice_is_once_and_a_copy_has_its_own_weights(triton_here):  # noqa: F811
    model = accelerated(accelerated(model_of("llama")))
    modeling = sys.modules["transformers.models.llama.modeling_llama"]
    assert not hasattr(modeling.apply_rotary_pos_emb.__wrapped__, "by_device")
    twin, batch = copy.deepcopy(model), batches("orm", random_rows("orm", count=2))[0]
    assert_computes_the_same(twin, model_of("llama"), batch)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "norm" in name:
                parameter.zero_()
    assert scored(twin, batch).abs().max() == 0 and scored(model, batch).abs().max() > 0


def test_causal_models_are_ligers_own_business(triton_here):  # noqa: F811
    accelerated(model_of("llama"))
    causal = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"]))
    apply_liger_kernel(causal, {})
    assert causal.forward.__func__.__module__.startswith("liger_kernel")


def test_why_not(monkeypatch):
    assert "do not run on 'cpu'" in register_liger(model_of("llama").cpu(), torch.device("cpu"))
    cuda = torch.device("cuda")
    assert register_liger(model_of("phi"), cuda) == "Liger does not know 'phi'"
    assert register_liger(model_of("llama"), cuda) is None
    monkeypatch.setattr(liger, "version", lambda name: "0.8.4")
    assert "liger-kernel is 0.8.4: `pip install 'liger-kernel>=0.8.5'`" in register_liger(model_of("llama"), cuda)
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: False)
    assert "liger-kernel is missing" in register_liger(model_of("llama"), cuda)


def test_a_class_that_liger_does_not_take_is_told(caplog):
    """Its functions for some families name the classes that they know."""
    model = model_of("llama")

    def refuses(rope=True, model=None):
        raise TypeError("The model must be LlamaForCausalLM.")

    liger._for_bodies(refuses)(model=model)
    assert "does not take a LlamaModel: The model must be LlamaForCausalLM." in caplog.text
    assert "has no kernel for the layers of a LlamaModel; training goes on without it" in caplog.text
    assert patched(model) == set() and unwrapped(model).forward is not None
