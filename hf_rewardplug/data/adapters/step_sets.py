r"""Data sets of rated steps with a layout of their own -> stepwise rows and step trees.

In: steps in a list, a marked text or a tree of Monte Carlo values. Out: {prompt, completions, labels} or {prompt,
nodes}, the prompt and the steps as text.
"""

import ast
import math
from typing import Any

from ...checks import RowError, expect, is_number, shown
from ..canonical import UNLABELLED
from .fields import Row, dicts, field, integer, items, text
from .registry import register_adapter

OPENR_STEP_TAG = "\n\n\n\n\n"
_OPENR_TAGS = (OPENR_STEP_TAG, "ки")
_OPENR_LABELS = {"+": True, "-": False, 1: True, 0: False}


@register_adapter("openr", columns=("question", "process", "label"), optional=())
def openr(row: Row) -> Row:
    r"""OpenR's training rows, as in openreasoner/MATH-APS: a step tag behind each step, a label a step. Gives text.

    The tag is five line breaks, or "ки" in rows made of Math-Shepherd; labels are "+" and "-". OpenR made them of
    Monte Carlo values (+ above 0.5). Where the process repeats the question, it is cut off.
    Columns: openreasoner/openr, preprocess/src/data_types/converted.py and prm/code/finetune_qwen.py;
    openreasoner.github.io, docs/datasets.md, which says that MATH-APS is published so.

    >>> openr({"question": "2+2+2?", "process": "2+2=4 \n\n\n\n\n So 7. \n\n\n\n\n", "label": ["+", "-"]})
    {'prompt': '2+2+2?', 'completions': ['2+2=4', 'So 7.'], 'labels': [True, False]}
    """
    question, process, labels = text(row, "question"), text(row, "process"), items(row, "label")
    if wrong := [label for label in labels if not isinstance(label, str | int) or label not in _OPENR_LABELS]:
        raise RowError(f"expected '+' or '-', found {shown(wrong[0])}", "label")
    process = process.removeprefix(question)
    tag = next((tag for tag in _OPENR_TAGS if tag in process), OPENR_STEP_TAG)
    steps = [step.strip() for step in process.split(tag)]
    if not steps[-1]:
        steps.pop()
    if len(steps) != len(labels):
        raise RowError(f"{len(labels)} labels for {len(steps)} steps divided by {tag!r}", "label")
    return {"prompt": question, "completions": steps, "labels": [_OPENR_LABELS[label] for label in labels]}


@register_adapter(
    "math_aps", columns=("question", "reasoning_steps"), ignored=("final_answer", "question_id"), optional=()
)
def math_aps(row: Row) -> Row | list[Row]:
    r"""OpenR's OmegaPRM data (MATH-APS) as collected: a tree, Monte Carlo values as soft labels. Gives text.

        question (0.75) ──┬─ "2+2=4" (1.0) ─── "So 6." (1.0)
                          └─ "2+2=5" (0.0)

    `reasoning_steps` is the root of the tree ({text, mc_value, children}; the root is the question, a node's text what
    it adds) or a list of its nodes ({solution_prefix, mc_value}, question and steps so far, joined by blank lines); the
    list is made a tree again: a node hangs at the longest earlier prefix of its own. The value of the question rates no
    step. A node whose value is None is unlabelled. A row of the question alone gives no row.
    Columns: openreasoner/openr, data/omegaPRM_v2/readme.md and omegaprm.py, preprocess/src/data_types/math_aps.py.

    >>> tree = {"text": "2+2+2?", "mc_value": 0.75, "children": [
    ...     {"text": "2+2=4", "mc_value": 1.0, "children": [{"text": "So 6.", "mc_value": 1.0, "children": []}]},
    ...     {"text": "2+2=5", "mc_value": 0.0, "children": []}]}
    >>> for node in math_aps({"question": "2+2+2?", "reasoning_steps": tree})["nodes"]: print(node)
    {'text': '2+2=4', 'label': 1.0, 'parent': -1}
    {'text': 'So 6.', 'label': 1.0, 'parent': 0}
    {'text': '2+2=5', 'label': 0.0, 'parent': -1}
    >>> prefixes = [{"solution_prefix": "2+2+2?", "mc_value": 0.75},
    ...             {"solution_prefix": "2+2+2?\n\n2+2=4", "mc_value": 1.0},
    ...             {"solution_prefix": "2+2+2?\n\n2+2=4\n\nSo 7.", "mc_value": 0.0}]
    >>> math_aps({"question": "2+2+2?", "reasoning_steps": prefixes})["nodes"][1]
    {'text': 'So 7.', 'label': 0.0, 'parent': 0}
    """
    question, steps = text(row, "question"), field(row, "reasoning_steps")
    if isinstance(steps, dict):
        nodes = _tree_nodes(steps)
    else:
        nodes = _prefix_nodes(question.strip(), dicts(row, "reasoning_steps"))
    return {"prompt": question, "nodes": nodes} if nodes else []


def _tree_nodes(root: Row) -> list[Row]:
    nodes: list[Row] = []
    open_nodes = [(child, -1) for child in reversed(_children(root))]
    while open_nodes:
        node, parent = open_nodes.pop()
        nodes.append({"text": text(node, "text", "reasoning_steps"), "label": _value(node), "parent": parent})
        open_nodes += [(child, len(nodes) - 1) for child in reversed(_children(node))]
    return nodes


def _children(node: Row) -> list[Row]:
    return dicts(node, "children", "reasoning_steps") if node.get("children") is not None else []


def _prefix_nodes(question: str, states: list[Row]) -> list[Row]:
    nodes: list[Row] = []
    prefixes: list[str] = []  # of the nodes, in their order
    for state in states:
        prefix = text(state, "solution_prefix", "reasoning_steps").strip().removeprefix(question).strip()
        if not prefix:
            continue  # the question itself
        earlier = [index for index, other in enumerate(prefixes) if prefix.startswith(f"{other}\n")]
        parent = max(earlier, key=lambda index: len(prefixes[index]), default=-1)
        added = prefix if parent < 0 else prefix[len(prefixes[parent]) :].strip()
        nodes.append({"text": added, "label": _value(state), "parent": parent})
        prefixes.append(prefix)
    return nodes


def _value(node: Row) -> float:
    value = field(node, "mc_value", "reasoning_steps")
    if value is None:
        return UNLABELLED
    if not is_number(value):
        raise RowError(f"expected a value in [0, 1], found {shown(value)}", "reasoning_steps.mc_value")
    return float(value)


@register_adapter(
    "versaprm", columns=("question", "chain_of_thoughts", "labels"), ignored=("answer", "category"), optional=()
)
def versaprm(row: Row) -> Row:
    """VersaPRM's published rows (UW-Madison-Lee-Lab/MMLU-Pro-CoT-Train-Labeled): steps with 1 and -1. Gives text.

    `chain_of_thoughts` and `labels` are lists, or (in the published csv) Python lists written as text. The labeller
    looked for the first wrong step, and each later step has its -1 too: as in VersaPRM's training, nobody rated those.
    The options of a question stand in `question`.
    Columns: loaders of the data set; the labels' meaning: UW-Madison-Lee-Lab/VersaPRM, model_train/prm_datasets.py and
    synth_cot_generation/mmlu_autolabel_from_bedrock.py.

    >>> versaprm({"question": "2+2+2?", "chain_of_thoughts": "['2+2=4', '4+2=7', 'So 7.']", "labels": "[1, -1, -1]"})
    {'prompt': '2+2+2?', 'completions': ['2+2=4', '4+2=7', 'So 7.'], 'labels': [True, False, -100]}
    """
    steps, ratings = _listed(row, "chain_of_thoughts"), _listed(row, "labels")
    if len(steps) != len(ratings):
        raise RowError(f"{len(ratings)} labels for {len(steps)} steps", "labels")
    if wrong := [rating for rating in ratings if rating not in (1, 0, -1)]:
        raise RowError(f"expected 1, 0 or -1, found {shown(wrong[0])}", "labels")
    first_error = next((index for index, rating in enumerate(ratings) if rating != 1), -1)
    return {"prompt": text(row, "question"), "completions": steps, "labels": _until_error(len(steps), first_error)}


def _has_chains(row: Row) -> bool:
    chains = row.get("chain_of_thoughts")
    return isinstance(chains, list) and bool(chains) and all(isinstance(chain, dict) for chain in chains)


@register_adapter(
    "versaprm.chains",
    columns=("question", "chain_of_thoughts"),
    matches=_has_chains,
    ignored=("answer", "domain", "source", "id"),
    optional=(),
)
def versaprm_chains(row: Row) -> list[Row]:
    """VersaPRM's training files: a question with several chains of steps; one tree a chain. Gives text.

    A chain is {steps, labels, augs}. It ends with its first step that is not rated 1, as in VersaPRM's training. `augs`
    are steps put in place of the chain's step `aug_idx`; they hang beside it, right where `aug_type` is 1 or 0. A chain
    whose `labels` are None (the labeller failed) gives no row.
    Columns: UW-Madison-Lee-Lab/VersaPRM, model_train/prm_datasets.py and model_train/data.

    >>> chain = {"steps": ["2+2=4", "4+2=7"], "labels": [1, -1],
    ...          "augs": [{"aug_step": "4+2=6", "aug_idx": 1, "aug_type": 1}]}
    >>> tree, = versaprm_chains({"question": "2+2+2?", "chain_of_thoughts": [chain]})
    >>> for node in tree["nodes"]: print(node)
    {'text': '2+2=4', 'label': 1, 'parent': -1}
    {'text': '4+2=7', 'label': 0, 'parent': 0}
    {'text': '4+2=6', 'label': 1, 'parent': 0}
    """
    rows = []
    for chain in dicts(row, "chain_of_thoughts"):
        if chain.get("labels") is None:
            continue
        steps, ratings = (items(chain, column, "chain_of_thoughts") for column in ("steps", "labels"))
        if len(steps) != len(ratings):
            raise RowError(f"{len(ratings)} labels for {len(steps)} steps", "chain_of_thoughts.labels")
        right = next((index for index, rating in enumerate(ratings) if rating != 1), len(steps))
        nodes: list[Row] = [
            {"text": step, "label": int(index < right), "parent": index - 1}
            for index, step in enumerate(steps[: right + 1])
        ]
        length = len(nodes)
        for aug in dicts(chain, "augs", "chain_of_thoughts") if chain.get("augs") else []:
            place = min(integer(aug, "aug_idx"), length)
            label = int(field(aug, "aug_type", "chain_of_thoughts.augs") in (0, 1))
            nodes.append({"text": text(aug, "aug_step", "chain_of_thoughts.augs"), "label": label, "parent": place - 1})
        rows.append({"prompt": text(row, "question"), "nodes": nodes})
    return rows


@register_adapter(
    "bigbench_mistake", columns=("input", "steps", "mistake_index"), ignored=("answer", "target"), optional=()
)
def bigbench_mistake(row: Row) -> Row:
    """BIG-Bench-Mistake: `mistake_index` is the index of the first wrong step, None where all are right. Gives text.

    Steps behind it are unlabelled: only the first mistake was looked for. pandas writes NaN for None.
    Columns: WHGTyen/BIG-Bench-Mistake, README.md and its files.

    >>> bigbench_mistake({"input": "2+2+2 =", "steps": ["2+2=4", "4+2=7", "So 7"], "answer": "7", "target": "6",
    ...                   "mistake_index": 1})
    {'prompt': '2+2+2 =', 'completions': ['2+2=4', '4+2=7', 'So 7'], 'labels': [True, False, -100]}
    >>> bigbench_mistake({"input": "2+2 =", "steps": ["4"], "answer": "4", "target": "4", "mistake_index": None})
    {'prompt': '2+2 =', 'completions': ['4'], 'labels': [True]}
    """
    steps, mistake = items(row, "steps"), field(row, "mistake_index")
    right = mistake is None or (isinstance(mistake, float) and math.isnan(mistake))
    first_error = -1 if right else integer(row, "mistake_index")
    if not right and not 0 <= first_error < len(steps):
        raise RowError(f"the mistake is step {first_error} of {len(steps)} (None: no mistake)", "mistake_index")
    return {"prompt": text(row, "input"), "completions": steps, "labels": _until_error(len(steps), first_error)}


def _until_error(size: int, first_error: int) -> list[Any]:
    if first_error < 0:
        return [True] * size
    return [True] * first_error + [False] + [UNLABELLED] * (size - first_error - 1)


def _listed(row: Row, column: str) -> list:
    """A list, or the list that a text writes in Python's or JSON's way."""
    value = field(row, column)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise RowError(f"expected a list, or one written as text, found {shown(value)}", column) from None
    return expect(value, list, "a list", column)
