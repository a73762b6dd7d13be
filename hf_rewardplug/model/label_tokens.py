"""An LM head as the head of a process reward model: a token for "right" and one for "wrong", read at the step's end.

    B sequences, L tokens, D hidden size, V vocabulary, S scored positions
    model(input_ids_BL, ..., score_positions_S)                            -> output.logits_S2: wrong, right
    model(input_ids_1T, position_ids_1T, prefix_tree, score_positions_S)   -> the same from one packed row
    model(input_ids_BL, ...)                                               -> transformers' logits_BLV; `generate` too

The scored forward is the family's own: only its LM head computes fewer positions and tokens. So the logits get whatever
the family does to them (Gemma's soft-cap, Granite's and Cohere's scale), and the hooks of DDP, DeepSpeed, FSDP and PEFT
fire. The columns are those of a token classifier with two labels; the model stays a causal LM.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from .attention import unwrapped
from .head import become, give_scored_forward


class LabelTokenHead(nn.Linear):
    """`nn.Linear` that, while it has `score_positions`, computes its label tokens' logits there and no others.

    So a batch takes S x 2 numbers, where a causal LM has L x V a sequence. The product is fp32, outside autocast; the
    weight keeps its dtype, which it may share with the embedding.

    >>> head = nn.Linear(2, 5, bias=False)
    >>> _ = head.weight.data.copy_(torch.arange(10.0).view(5, 2))
    >>> head.__class__, head.label_tokens = LabelTokenHead, torch.tensor([4, 1])
    >>> hidden_BLD = torch.ones(1, 3, 2)
    >>> head(hidden_BLD).shape
    torch.Size([1, 3, 5])
    >>> head.score_positions = torch.tensor([0, 2])
    >>> head(hidden_BLD).tolist()
    [[17.0, 5.0], [17.0, 5.0]]
    """

    # `label_tokens` are the ids of (bad, good). Neither attribute is a buffer: no checkpoint has a trace of them.
    label_tokens: torch.Tensor
    # `score_positions` (S,) count in the flattened batch.
    score_positions: torch.Tensor | None = None

    def forward(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        if self.score_positions is None:
            return super().forward(hidden_BLD)
        device = hidden_BLD.device
        hidden_SD = hidden_BLD.flatten(0, -2)[self.score_positions.to(device)]
        # Kept on the device, because otherwise each batch would wait for a copy.
        self.label_tokens = self.label_tokens.to(device)
        weight_2D = F.embedding(self.label_tokens, self.weight, sparse=_adds_rows(self.weight))
        with torch.autocast(device.type, enabled=False):
            bias_2 = None if self.bias is None else self.bias[self.label_tokens].float()
            return F.linear(hidden_SD.float(), weight_2D.float(), bias_2)


def add_rows_alone(weight: nn.Parameter) -> None:
    """Let the label tokens' two rows be added to the gradient of a (V, D) weight, instead of a gradient as large as it.

    The rows then come as a sparse gradient. torch adds it to a gradient that is there already in place: to that of the
    embedding which shares the weight, or to the last micro-batch's. An optimizer wants a dense gradient, so the first
    one of a weight that nothing shares becomes dense here, before DDP and DeepSpeed look at it.

    A weight that ZeRO-3 has partitioned is left as it is. FSDP computes with other tensors than this one, for which
    nothing changes either.
    """
    if not _adds_rows(weight) and not hasattr(weight, "ds_id"):
        weight.register_post_accumulate_grad_hook(_make_gradient_dense)


def _make_gradient_dense(weight: torch.Tensor) -> None:
    if weight.grad is not None and weight.grad.is_sparse:
        weight.grad = weight.grad.to_dense()


def _adds_rows(weight: torch.Tensor) -> bool:
    """Whether `add_rows_alone` was called for this very tensor: a copy of it has no hook."""
    hooks = None if torch.compiler.is_compiling() else weight._post_accumulate_grad_hooks
    return bool(hooks) and _make_gradient_dense in hooks.values()


def label_token_ids(tokenizer: PreTrainedTokenizerBase, good_token: str, bad_token: str) -> tuple[int, int]:
    """Ids of (bad, good): the only token that each text is encoded to, or else the vocabulary's token of that name.

    The encoding comes first, as in the code of the public models: Math-Shepherd's tokenizer makes "▁+" of the text "+",
    and has another token that is called so.

    Raises:
        ValueError: a text is neither, or both are the same token.
    """
    ids = []
    for name, text in (("bad_token", bad_token), ("good_token", good_token)):
        encoded = tokenizer.encode(text, add_special_tokens=False)
        named = tokenizer.get_vocab().get(text)
        if len(encoded) == 1 and encoded[0] != tokenizer.unk_token_id:
            ids.append(encoded[0])
        elif named is not None:
            ids.append(named)
        else:
            raise ValueError(
                f"{name}={text!r} is not a single token: this tokenizer makes "
                f"{tokenizer.convert_ids_to_tokens(encoded)} of it. Take a text that it makes one token of, or a token "
                "of its vocabulary."
            )
    if ids[0] == ids[1]:
        same = tokenizer.convert_ids_to_tokens(ids[0])
        raise ValueError(f"good_token={good_token!r} and bad_token={bad_token!r} are the same token, {same!r}.")
    return ids[0], ids[1]


def install_label_tokens(model: nn.Module, label_tokens: Sequence[int]) -> None:
    """Give `model`, a causal LM, the scored forward, in place; PEFT-wrapped or not, once or again.

    Args:
        label_tokens: ids of (bad, good), as `label_token_ids` gives them.

    Raises:
        ValueError: the LM head is no linear layer (PEFT has wrapped it, it is quantized), or has no row for a token.
    """
    base = unwrapped(model)
    for module in _lm_heads(base):
        if max(label_tokens) >= module.out_features:
            raise ValueError(
                f"The label tokens have the ids {list(label_tokens)}, but the LM head has {module.out_features} rows: "
                "the tokenizer is another model's. Take the model's own, or resize the embeddings first."
            )
        module.label_tokens = torch.tensor(label_tokens)
        # FSDP replaces the class of a layer that it shards.
        if type(module) is nn.Linear:
            become(module, LabelTokenHead)
        if module.weight.requires_grad:
            add_rows_alone(module.weight)
    base.label_tokens = tuple(label_tokens)
    give_scored_forward(base, _scored_forward)


def _lm_heads(base: nn.Module) -> list[nn.Linear]:
    """The LM head, and PEFT's copies of it in `modules_to_save`."""
    head = base.get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)
    heads = [head] if copies is None else [head.original_module, *copies.values()]
    for module in heads:
        head_class = type(module)
        if head_class is nn.Linear or isinstance(module, LabelTokenHead):
            continue
        name = next((name for name, module in base.named_modules() if module is head), "lm_head")
        raise ValueError(
            f"The LM head '{name}' is a {head_class.__module__}.{head_class.__name__}; expected a linear layer as "
            f"it is. Leave it out of PEFT's `target_modules` (`modules_to_save=['{name}']` trains it) and of the "
            "quantization."
        )
    return heads


def _scored_forward(self, *args, score_positions: torch.Tensor, **kwargs):
    """The family's own forward, whose LM heads compute the label tokens' logits at the scored positions alone."""
    # The router's own loss would misread a tree's mask.
    if getattr(self.config, "output_router_logits", False):
        kwargs["output_router_logits"] = False
    heads = _lm_heads(self)
    try:
        for head in heads:
            head.score_positions = score_positions
        logits = self._plain_forward(*args, **{**kwargs, "return_dict": True}).logits
    finally:
        for head in heads:
            head.score_positions = None
    if logits.shape != (len(score_positions), 2):
        raise RuntimeError(
            f"{type(self).__name__} computes its logits without calling its LM head, so no label token can be read. "
            "Train a token classifier instead: leave `good_token` and `bad_token` out."
        )
    return CausalLMOutput(logits=logits.to(score_positions.device))
