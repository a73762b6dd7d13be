"""FlexAttention with the tree as its mask, compiled by Inductor: soft-capped scores (Gemma 2) and fp32 on CUDA.

In: a packed row's tensors and its layout. Out: the same as every kernel's. Its eager form computes all T x T scores, so
only the compiled one is called.
"""

import functools
import threading

import torch
import torch.nn.functional as F

from ..layout import TreeLayout

BLOCK = 128
"""tokens of a block of the mask"""

TILES = ("BLOCK_M", "BLOCK_N", "BLOCK_M1", "BLOCK_N1", "BLOCK_M2", "BLOCK_N2")
"""tokens of a tile: of the forward's queries (M) and keys (N), and the same of the backward's two passes"""


def flex_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """The attention of a packed row in one launch.

    Raises:
        RuntimeError: `TORCHDYNAMO_DISABLE` is set, and all T x T scores would be computed.
    """
    if torch._dynamo.config.disable:
        raise RuntimeError("FlexAttention is not compiled where TORCHDYNAMO_DISABLE is set")
    output_1HTD = _compiled_flex()(
        query_HTD[None],
        key_KTD[None],
        value_KTD[None],
        score_mod=None if softcap is None else _soft_cap(softcap),
        block_mask=_block_mask(layout, window, query_HTD.device),
        scale=scale,
        enable_gqa=query_HTD.shape[0] != key_KTD.shape[0],
        kernel_options=kernel_options(query_HTD.shape[-1], query_HTD.dtype, shared_memory(query_HTD.device)),
    )
    # `[0]` would copy a whole gradient in the backward.
    return output_1HTD.squeeze(0)


def kernel_options(dim: int, dtype: torch.dtype, memory: int) -> dict:
    """What Inductor is asked for beyond its own choice, for heads `dim` wide on a card with `memory` bytes a block.

    Inductor's tiles stay where they fit. The bytes that a block of threads needs of them, and may have at most:

                                                RTX 30, 40    RTX 50      A100      H100
    a head of 128 bytes (bf16 64, fp32 32)          50,176    35,328    50,176   116,736
    of 256 bytes (bf16 128, fp32 64)               102,400    66,560   100,352   164,864
    of 512 and 1,024 bytes (Gemma 2)               152,576   114,688   152,576   197,632
    of as many, but padded (bf16 192)              173,056   173,056   173,056   230,400
    at most                                        101,376   101,376   166,912   232,448

    Where 256 bytes are too many, two stages of the pipeline instead of three are enough. Wider heads get tiles of 32
    tokens, in fp32 of 16, as Inductor's own backward has in fp32; so does a T4 (65,536 bytes). Under 128 queries
    Inductor would take its decoding kernel, which refuses grouped heads.

    >>> kernel_options(256, torch.bfloat16, 232_448)
    {'FORCE_USE_FLEX_ATTENTION': True}
    >>> kernel_options(128, torch.bfloat16, 101_376)
    {'FORCE_USE_FLEX_ATTENTION': True, 'num_stages': 2}
    >>> kernel_options(256, torch.bfloat16, 101_376)["BLOCK_N"]
    32
    """
    options = {"FORCE_USE_FLEX_ATTENTION": True}
    # Triton makes a head as wide as the next power of two.
    padded = 1 << (dim - 1).bit_length()
    head, large = padded * dtype.itemsize, memory >= 160 * 1024
    if head <= 128 or (large and (head <= 256 or padded == dim)):
        return options
    if head <= 256:
        return {**options, "num_stages": 2}
    size = 32 if dtype.itemsize == 2 and memory >= 96 * 1024 else 16
    return {**options, **dict.fromkeys(TILES, size), "num_stages": 1, "num_warps": 4}


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block of threads may ask for; without a GPU no limit."""
    if device.type != "cuda":
        return 1 << 30
    properties = torch.cuda.get_device_properties(device)
    # torch does not report it for AMD's cards, which have 65,536 bytes.
    return getattr(properties, "shared_memory_per_block_optin", 65_536)


@functools.lru_cache(maxsize=1)
def _compiled_flex():
    """FlexAttention, compiled for all lengths at once.

    Scale and soft-cap are constants, since Inductor cannot lower a score that takes in a dynamic float. Each mask, grad
    mode and soft-cap is a graph of its own, and so is a row of one block. Together they exceed dynamo's limit of 8,
    beyond which FlexAttention would compute all T x T scores.
    """
    from torch.nn.attention import flex_attention as module

    compiled, lock = torch.compile(module.flex_attention, dynamic=True), threading.Lock()
    patched = torch._dynamo.config.patch(specialize_float=True, recompile_limit=64)(compiled)

    def in_turn(*args, **kwargs):
        # Before torch 2.13 all threads share the configuration.
        with lock:
            return patched(*args, **kwargs)

    return in_turn


@functools.lru_cache(maxsize=8)
def _soft_cap(softcap: float):
    def score_mod(score, batch, head, query, key):
        return softcap * torch.tanh(score / softcap)

    return score_mod


def _block_mask(layout: TreeLayout, window: int | None, device: torch.device):
    """What `create_block_mask` makes of all T x T pairs, from the first and last tokens of each block.

    With a window a block may be taken for a partial one in which nothing is visible; the mask decides there.
    """
    from torch.nn.attention.flex_attention import BlockMask

    index = layout.on(device)
    if ("block_mask", window) in index:
        return index["block_mask", window]
    end_T, position_ids_T = index["subtree_end"], index["position_ids"]
    # Computed once here; the mask would compute it T x T times.
    before_T = None if window is None else position_ids_T - window

    def visible(batch, head, query, key):
        return (key <= query) & (query < end_T[key])

    def visible_in_window(batch, head, query, key):
        return visible(batch, head, query, key) & (position_ids_T[key] > before_T[query])

    size = len(position_ids_T)
    first_N = torch.arange(0, size, BLOCK, device=device)
    last_N, whole_N = first_N + BLOCK - 1, first_N + BLOCK <= size
    below_NN = first_N < first_N[:, None]
    some_NN = below_NN & (_blocks(end_T, 0).amax(1) > first_N[:, None])
    all_NN = below_NN & (_blocks(end_T, 0).amin(1) > last_N[:, None]) & whole_N[:, None]
    if window is not None:
        # `F.pad` turns these into doubles, which hold them exactly.
        most, least = 1 << 62, -(1 << 62)
        some_NN &= _blocks(position_ids_T, least).amax(1) > _blocks(before_T, most).amin(1)[:, None]
        all_NN &= _blocks(position_ids_T, most).amin(1) > _blocks(before_T, least).amax(1)[:, None]
    some_NN = (some_NN & ~all_NN) | torch.eye(len(first_N), dtype=torch.bool, device=device)
    index["block_mask", window] = BlockMask.from_kv_blocks(
        *_ordered(some_NN),
        *_ordered(all_NN),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible if window is None else visible_in_window,
        seq_lengths=(size, size),
    )
    return index["block_mask", window]


def _blocks(values_T: torch.Tensor, fill: int) -> torch.Tensor:
    """(blocks, BLOCK), the last one filled up."""
    return F.pad(values_T, (0, -len(values_T) % BLOCK), value=fill).unflatten(0, (-1, BLOCK))


def _ordered(mask_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks each query block sees, and the indices of these before all others."""
    indices_NN = mask_NN.int().argsort(dim=1, descending=True, stable=True)
    return mask_NN.sum(1, dtype=torch.int32)[None, None], indices_NN.int()[None, None]
