"""The definition of prefix-tree attention, with an explicit mask: the slow twin of every kernel."""

from ..layout import TreeLayout


def reference_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """Softmax over the keys that the tree lets each query see. Slow, and quadratic in T in memory."""
    groups = query_HTD.shape[0] // key_KTD.shape[0]
    scores_HTT = scale * query_HTD @ key_KTD.repeat_interleave(groups, 0).transpose(1, 2)
    if softcap is not None:
        scores_HTT = softcap * (scores_HTT / softcap).tanh()
    scores_HTT = scores_HTT.masked_fill(~layout.mask_TT(window), float("-inf"))
    return scores_HTT.softmax(-1) @ value_KTD.repeat_interleave(groups, 0)
