"""The definition of prefix-tree attention, with an explicit mask: the slow twin of every kernel.

In: the tensors of a packed row and its layout. Out: the attention's output, by products over all T x T pairs.
"""

from ..layout import TreeLayout


def reference_attention(query_HTD, key_KTD, value_KTD, layout: TreeLayout, scale, softcap=None, window=None):
    """Softmax over the keys that the tree lets each query see. Slow, and quadratic in T in memory.

    Values are averaged over what a token sees: here two branches of one token each after the same first token.

    >>> import torch
    >>> tree = TreeLayout([(0, 2, 0, 2), (2, 3, 2, 3), (2, 3, 0, 1)], torch.tensor([0, 1, 1]), 2)
    >>> same_key, value_KTD = torch.ones(1, 3, 1), torch.tensor([[[0.0], [2.0], [4.0]]])
    >>> reference_attention(same_key, same_key, value_KTD, tree, 1.0).flatten().tolist()
    [0.0, 1.0, 2.0]
    """
    groups = query_HTD.shape[0] // key_KTD.shape[0]
    scores_HTT = scale * query_HTD @ key_KTD.repeat_interleave(groups, 0).transpose(1, 2)
    if softcap is not None:
        scores_HTT = softcap * (scores_HTT / softcap).tanh()
    scores_HTT = scores_HTT.masked_fill(~layout.mask_TT(window), float("-inf"))
    return scores_HTT.softmax(-1) @ value_KTD.repeat_interleave(groups, 0)
