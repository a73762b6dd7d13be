"""Adapters: one raw row of a known data set -> its canonical row, or a list of them (empty: nothing to learn from it).

In: a dict as `datasets` gives it. Out: preference, ranked, scored, stepwise, outcome or step_tree rows, in TRL's
dialect where it has one. `hf_rewardplug.data.canonical` says what these are, and checks them. Pure Python: no torch, no
transformers, no datasets.

    registry.py     names -> adapters, detection from columns, column_mapping, entry points
    recorded.py     which columns a function reads, where it does not say so
    fields.py       a raw row's fields, or an error that names the column
    turns.py        text with turn marks -> messages; what two conversations share
    prompts.py      a prompt in several columns, ShareGPT's turns -> messages

    preference.py   chosen and rejected: TRL, Skywork, HH-RLHF, axolotl's Bradley-Terry types
    pairs.py        the same under other names: Orca, OASST, UltraInteract, Step-DPO, Vezora, ms-swift
    llamafactory.py Alpaca and ShareGPT, as pairs and for KTO
    distilabel.py   rated generations and the pairs made of them, Argilla's Orca pairs
    votes.py        two answers and a word: arena, MT-Bench, JudgeBench, Preference-Collection
    comparisons.py  two answers and an index or scores: PKU-SafeRLHF, SHP, WebGPT, summaries, OffsetBias
    ranked.py       several answers rated: UltraFeedback, Nectar, FineGrainedRLHF, HelpSteer2/3
    scored.py       one answer rated: TRL's unpaired preferences, HelpSteer's attributes
    stepwise.py     rated steps: TRL, Math-Shepherd, PRM800K, ProcessBench, Qwen2.5-Math-PRM
    step_conversations.py   steps turn by turn or at marks: RLHFlow, GenPRM, OpenRLHF
    step_sets.py    steps in layouts of their own: OpenR, MATH-APS, VersaPRM, BIG-Bench-Mistake
    mixed.py        canonical rows of several data sets, as `hf_rewardplug.data.mixing` writes them

Write your own, then pass its name or let it be detected:

>>> @register_adapter("my_votes", columns=["question", "good", "bad"])
... def my_votes(row):
...     return {"prompt": row["question"], "chosen": row["good"], "rejected": row["bad"]}
>>> get_adapter("my_votes")({"question": "1+1?", "good": "2", "bad": "3"})
[{'prompt': '1+1?', 'chosen': '2', 'rejected': '3'}]

A package offers its adapters through the entry point group `hf_rewardplug.adapters`.
"""

from . import (  # noqa: F401  importing them registers them
    comparisons,
    distilabel,
    llamafactory,
    mixed,
    pairs,
    preference,
    ranked,
    scored,
    step_conversations,
    step_sets,
    stepwise,
    votes,
)
from .registry import (
    ENTRY_POINT_GROUP,
    Adapter,
    adapter_names,
    detect_adapter,
    fitting_adapters,
    get_adapter,
    register_adapter,
    rename_columns,
    rename_names,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "Adapter",
    "adapter_names",
    "detect_adapter",
    "fitting_adapters",
    "get_adapter",
    "register_adapter",
    "rename_columns",
    "rename_names",
]
