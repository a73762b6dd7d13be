"""What transformers' options mean beside packed rows; docs/training_arguments.md lists every one of them.

In: a run's config, model and collator. Out: packed batches, or why they must be padded; or an error or a notice before
the first step.
"""

import logging

from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn

from ..model.attention import share_prefixes, unwrapped
from ..model.layout import tree_index
from ..model.positions import separate_lengths

logger = logging.getLogger(__name__)

_FUNCTIONAL_NOISE = ("residual_dropout", "embedding_dropout", "router_jitter_noise")
"""options of models' configs that no `nn.Dropout` stands for: StarCoder2's and Mixtral's"""


def pack(model: nn.Module, setup) -> None:
    """Switch `model` to the attention of packed prefix trees, and the collator of `setup` to packed batches.

    Or log why batches are padded. Somebody else's collator stays as it is.

    Raises:
        ValueError: somebody else's collator packs, but the model or an option does not go with that.
    """
    args, collator, theirs = setup.args, setup.collator, setup.users_collator
    side_of = separate_lengths(model)
    asked = (args.model_init_kwargs or {}).get("attn_implementation")
    if theirs is not None:
        reason = None if getattr(collator, "prefix_sharing", False) else "the data collator is yours"
        if not reason and (against := why_padded(model, args)):
            raise ValueError(f"The data collator shares prefixes, but {against}. Leave one of the two out.")
        if not reason and (against := share_prefixes(model)):
            raise ValueError(f"The data collator shares prefixes, but the model cannot take it: {against}.")
    elif not args.prefix_sharing:
        reason = "`prefix_sharing=False`"
    elif setup.own_loss:
        reason = f"{setup.own_loss} has a `compute_loss` of its own"
    elif asked is not None:
        reason = f"attn_implementation='{asked}' was asked for"
    else:
        reason = why_padded(model, args) or share_prefixes(model)
    if reason and args.prefix_sharing and args.process_index == 0:
        logger.warning("Batches are padded, prefixes are not shared: %s. `prefix_sharing=False` says so too.", reason)
    if not reason:
        collator.prefix_sharing, collator.side_of = True, side_of
        collator.tree_index = tree_index if args.device.type == "cuda" else None
    elif theirs is None:
        collator.prefix_sharing = False


def why_padded(model: nn.Module, args) -> str | None:
    """Why batches must be padded with these options, or None: in a packed row they would mean something else."""
    if TorchDynamoPlugin(backend=args.torch_compile_backend).backend != DynamoBackend.NO:  # `accelerate launch` too
        return "`torch_compile` would compile again for every batch's tree"
    if args.neftune_noise_alpha:
        return f"`neftune_noise_alpha={args.neftune_noise_alpha}` scales the noise by the length of a padded row"
    if "inputs" in args.include_for_metrics:
        return "`include_for_metrics=['inputs']` gives `compute_metrics` the padded rows"
    if noise := active_noise(model):
        return f"{noise} draws another mask for each sequence"
    return None


def active_noise(model: nn.Module) -> str | None:
    """What the body draws at random for each token in training, adapters included, or None.

    The dropout of a token classifier's head does not count: it is drawn for each scored position.
    """
    base = unwrapped(model)
    body = getattr(base, base.base_model_prefix, base)
    for name, module in body.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return f"dropout={module.p} in `{name}`"
    active = {name: getattr(base.config, name, None) for name in _FUNCTIONAL_NOISE}
    return next((f"{name}={value}" for name, value in active.items() if value), None)


def check_parallelism(config) -> None:
    """Refuse accelerate's `ParallelismConfig` (or None) where it cuts rows into pieces.

    Raises:
        ValueError: context or sequence parallelism is on.
    """
    for name in ("cp_size", "sp_size"):
        if getattr(config, name, 1) > 1:
            raise ValueError(
                f"`parallelism_config` has {name}={getattr(config, name)}, which spreads a row over several devices, "
                "where score positions do not follow it. Set it to 1, and shard the model instead (FSDP, ZeRO, or "
                "`tp_size`)."
            )


def unused_options(args) -> list[str]:
    """What to say of the options that a run's own way makes superfluous.

    >>> from types import SimpleNamespace
    >>> args = {"average_tokens_across_devices": True, "label_names": None, "use_cache": True}
    >>> unused_options(SimpleNamespace(**args))
    ['`use_cache=True` has no effect: no text is generated']
    """
    notices = []
    if not args.average_tokens_across_devices:
        notices.append("`average_tokens_across_devices=False` has no effect: the loss is a mean over all devices")
    if args.label_names:
        notices.append(f"`label_names={args.label_names}` has no effect: `compute_metrics` gets the labels of the rows")
    if args.use_cache:
        notices.append("`use_cache=True` has no effect: no text is generated")
    return notices
