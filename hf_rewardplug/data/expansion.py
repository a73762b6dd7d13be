"""A canonical row to the rows that a loss trains on: pairs, ranked lists, scored completions, or steps.

In: a canonical row of any type (`canonical.py`). Out: rows of one type, validated, or a `RowError` that names the
losses that take rows of its type.

    row             pairs              lists            scored                 steps
    preference      itself             a list of two    -                      -
    ranked          every pair         itself           every completion       -
    scored          -                  -                itself                 -
    stepwise        -                  -                -                      itself
    outcome         -                  -                -                      itself, for `min_form` alone
    step_tree       -                  -                -                      itself, for `cross_entropy` alone

A tie gives no pair unless a loss has a model of ties. A list gives nothing where all its scores are the same.
"""

import math
from collections.abc import Sequence
from itertools import combinations

from ..checks import DropRow, RowError, finite, is_whole, nonempty_list, shown
from .canonical import PAIR_NUMBERS, UNLABELLED, Row, checked_completion, checked_list, checked_pair, checked_steps

_SHARED = ("prompt", "tools", "chat_template_kwargs", "weight")

_LOSSES = {"preference": "'bradley_terry'", "scored": "'mse', 'huber' or 'bce'"}


_FORMS = (
    ("step_tree", "nodes"),
    ("stepwise", "completions", "labels"),
    ("outcome", "completions", "outcome"),
    ("ranked", "completions", "scores"),
    ("preference", "chosen", "rejected"),
    ("scored", "completion", "score"),
    ("scored", "completion", "attributes"),
)
"""types of canonical rows, each with the columns that tell it"""


def row_type(row: Row) -> str:
    """The type of a canonical row, in TRL's words where it has one.

    >>> row_type({"prompt": "2+2?", "completions": ["4."], "labels": [True]})
    'stepwise'
    """
    for form, *columns in _FORMS:
        if row.keys() >= {*columns}:
            return form
    raise RowError(
        f"not a canonical row: it has {sorted(row)}. Expected chosen/rejected, completions with scores, labels or "
        "outcome, completion with score or attributes, or nodes"
    )


def to_pairs(row: Row, *, ties: bool = False) -> list[Row]:
    """Canonical row -> validated preference rows; a ranked list gives every pair, best first.

    Every pair of a list: Ouyang et al. 2022 (arXiv:2203.02155), section 3.5.

    Args:
        ties: whether ties are given too; each pair then has a `tie`, True or False.

    >>> to_pairs({"prompt": "Hi", "completions": ["a", "b", "c"], "scores": [1, 3, 1]})
    [{'prompt': 'Hi', 'chosen': 'b', 'rejected': 'a'}, {'prompt': 'Hi', 'chosen': 'b', 'rejected': 'c'}]
    >>> to_pairs({"chosen": "a", "rejected": "b", "tie": True})
    []
    >>> to_pairs({"chosen": "a", "rejected": "b", "tie": True}, ties=True)
    [{'chosen': 'a', 'rejected': 'b', 'tie': True}]
    """
    form = row_type(row)
    if form == "preference":
        pair = checked_pair(row)
        pairs = [(pair, pair.pop("tie", False))]
    elif form == "ranked":
        completions, scores, rest = _ranked(row)
        pairs = []
        for a, b in combinations(range(len(scores)), 2):
            best, worst = (a, b) if scores[a] >= scores[b] else (b, a)
            if ties or scores[a] != scores[b]:
                pair = checked_pair({**rest, "chosen": completions[best], "rejected": completions[worst]})
                pairs.append((pair, scores[a] == scores[b]))
    else:
        raise _other(form, "pairs")
    if ties:
        return [{**pair, "tie": tie} for pair, tie in pairs]
    return [pair for pair, tie in pairs if not tie]


def to_lists(row: Row) -> list[Row]:
    """Canonical row -> a validated ranked row {prompt, completions, scores}; a pair is a list of two.

    >>> to_lists({"prompt": "Hi", "chosen": "a", "rejected": "b"})
    [{'prompt': 'Hi', 'completions': ['a', 'b'], 'scores': [1.0, 0.0]}]
    >>> to_lists({"prompt": "Hi", "completions": ["a", "b"], "scores": [3, 3]})
    []
    """
    form = row_type(row)
    if form == "ranked":
        completions, scores, rest = _ranked(row)
        return [{**rest, "completions": completions, "scores": scores}] if len({*scores}) > 1 else []
    if form != "preference":
        raise _other(form, "ranked lists")
    pair = checked_pair(row)
    if pair.get("tie"):
        return []
    for column in PAIR_NUMBERS:
        if column in pair and column != "weight":
            raise RowError("a ranked list has none. Take a loss of pairs, such as 'bradley_terry'", column=column)
    rest = {key: pair[key] for key in _SHARED if key in pair}
    return [{**rest, "completions": [pair["chosen"], pair["rejected"]], "scores": [1.0, 0.0]}]


def to_scored(row: Row, *, attributes: Sequence[str] | None = None, graded: bool = False) -> list[Row]:
    """Canonical row -> validated rows {prompt, completion, scores}, a score an attribute, NaN where it is not rated.

    Args:
        attributes: names of the scores; a row's `score` alone when None.
        graded: whether scores must lie in [0, 1], as outcomes do.

    >>> to_scored({"prompt": "Hi", "completions": ["a", "b"], "scores": [3, 1]})
    [{'prompt': 'Hi', 'completion': 'a', 'scores': [3.0]}, {'prompt': 'Hi', 'completion': 'b', 'scores': [1.0]}]
    >>> rated = {"prompt": "Hi", "completion": "a", "attributes": {"helpful": 4, "brief": None, "long": 1}}
    >>> to_scored(rated, attributes=["helpful", "brief"])
    [{'prompt': 'Hi', 'completion': 'a', 'scores': [4.0, nan]}]
    """
    form = row_type(row)
    if form == "ranked":
        completions, scores, rest = _ranked(row)
        if attributes is not None:
            raise RowError("a ranked row has one score a completion, no `attributes`. Leave those out of the config")
        answers = zip(completions, scores, strict=True)
        rows = [({**rest, "completion": completion}, [score]) for completion, score in answers]
    elif form == "scored":
        rows = [(row, _scores(row, attributes))]
    else:
        raise _other(form, "scores")
    if graded:
        column = "attributes" if attributes else "scores" if form == "ranked" else "score"
        for _, scores in rows:
            check_graded(scores, column)
    return [{**checked_completion(rated), "scores": scores} for rated, scores in rows]


def check_graded(scores: Sequence[float], column: str) -> None:
    """Scores are outcomes, in [0, 1], or NaN."""
    for score in scores:
        if not (0 <= score <= 1 or math.isnan(score)):
            raise RowError(
                f"{score} is outside [0, 1]; loss_type='bce' takes 0/1 or a share. Map it in an adapter, or take 'mse' "
                "or 'huber'",
                column=column,
            )


def to_steps(row: Row, *, empty_steps: bool = False) -> list[Row]:
    """Canonical row -> a validated step row {prompt, completions, labels}; of a tree with each step's parent as well.

    Args:
        empty_steps: as in `checked_steps`.

    >>> nodes = [
    ...     {"text": "a", "label": 1, "parent": -1},
    ...     {"text": "b", "label": 0, "parent": 0},
    ...     {"text": "c", "label": 1, "parent": 0},
    ... ]
    >>> to_steps({"prompt": "p", "nodes": nodes})
    [{'prompt': 'p', 'completions': ['a', 'b', 'c'], 'labels': [1, 0, 1], 'parents': [-1, 0, 0]}]
    """
    form = row_type(row)
    if form == "stepwise":
        return [checked_steps(row, empty_steps=empty_steps)]
    if form == "outcome":
        raise RowError("the row has an outcome and no labels of its steps. loss_type='min_form' trains on such rows")
    if form != "step_tree":
        raise _other(form, "steps")
    nodes = [node if isinstance(node, dict) else {} for node in nonempty_list(row, "nodes")]
    parents = [node.get("parent") for node in nodes]
    for index, parent in enumerate(parents):
        if not is_whole(parent, -1) or parent >= index:
            raise RowError(
                f"node {index} has parent {shown(parent)}; expected -1 (the prompt) or an earlier node", column="nodes"
            )
    steps = {key: [node.get(name) for node in nodes] for key, name in (("completions", "text"), ("labels", "label"))}
    return [{**checked_steps({**row, **steps}, column="nodes", empty_steps=empty_steps), "parents": parents}]


def to_step_ranks(row: Row) -> list[Row]:
    """`to_steps` for a loss that ranks the steps of one solution: no tree, no soft label.

    >>> to_step_ranks({"prompt": "p", "completions": ["a", "b"], "labels": [True, False]})
    [{'prompt': 'p', 'completions': ['a', 'b'], 'labels': [1, 0]}]
    """
    steps = to_steps(_one_solution(row))
    for index, label in enumerate(steps[0]["labels"]):
        if label not in (0, 1, UNLABELLED):
            raise RowError(
                f"label {index} is {label}; loss_type='pqm' ranks right steps above wrong ones and takes 0 and 1. Take "
                "'cross_entropy' for soft labels",
                column="labels",
            )
    return steps


def to_outcomes(row: Row, *, empty_steps: bool = False) -> list[Row]:
    """Canonical row -> a step row whose outcome, in [0, 1], is the least of its labels.

    A solution is right if every step is. A row with an outcome alone has it as the label of each step, and
    `steps_labelled` says that no figure of steps should count them. `empty_steps`: as in `checked_steps`.

    >>> to_outcomes({"prompt": "p", "completions": ["a", "b"], "outcome": False})
    [{'prompt': 'p', 'completions': ['a', 'b'], 'labels': [0.0, 0.0], 'steps_labelled': False}]
    >>> to_outcomes({"prompt": "p", "completions": ["a", "b"], "labels": [1, 0]})
    [{'prompt': 'p', 'completions': ['a', 'b'], 'labels': [1, 0], 'steps_labelled': True}]
    """
    row = _one_solution(row)
    if row_type(row) != "outcome":
        return [{**steps, "steps_labelled": True} for steps in to_steps(row, empty_steps=empty_steps)]
    outcome = row["outcome"]
    if not isinstance(outcome, bool | int | float) or not 0 <= outcome <= 1:
        raise RowError(f"expected a bool or a share in [0, 1], found {shown(outcome)}", column="outcome")
    count = len(nonempty_list(row, "completions"))
    row = {**row, "labels": [float(outcome)] * count}
    return [{**checked_steps(row, empty_steps=empty_steps), "steps_labelled": False}]


def _one_solution(row: Row) -> Row:
    """The row, unless it is a tree: losses that rate or rank a whole solution cannot tell which one a tree is."""
    if row_type(row) == "step_tree":
        raise RowError(
            "a tree of steps is many solutions, and this loss takes one. Take loss_type='cross_entropy', or give every "
            "path as a row of its own"
        )
    return row


def _ranked(row: Row) -> tuple[list, list[float], Row]:
    """The completions and scores of a checked ranked row, and its other columns."""
    rest = checked_list(row)
    return rest.pop("completions"), rest.pop("scores"), rest


def _scores(row: Row, attributes: Sequence[str] | None) -> list[float]:
    rated = row.get("attributes")
    if attributes is None and "score" in row:
        return [_number(row["score"], "score")]
    if "attributes" in row and not isinstance(rated, dict):
        raise RowError(f"expected {{name: score or None}}, found {shown(rated)}", column="attributes")
    if attributes is None:
        raise RowError(
            f"no `score`, but attributes: set `attributes={sorted(rated, key=str)}` in the config, or some of them"
        )
    if rated is None:
        raise RowError("the row has no `attributes`, only a `score`. Leave `attributes` out of the config")
    if missing := [name for name in attributes if name not in rated]:
        raise RowError(f"no attribute {', '.join(missing)}; the row has {', '.join(rated)}", column="attributes")
    scores = [math.nan if rated[name] is None else _number(rated[name], "attributes") for name in attributes]
    if all(map(math.isnan, scores)):
        raise DropRow("no attribute is rated")
    return scores


def _number(value: object, column: str) -> float:
    return float(value) if isinstance(value, bool) else finite(value, column)


def _other(form: str, wanted: str) -> RowError:
    """The error for a row of a type that cannot give what a loss takes, with the remedy for that type."""
    article = "an" if form == "outcome" else "a"
    if wanted == "steps":
        return RowError(
            f"{article} {form} row cannot train a process reward model. Use RewardTrainer, or data with steps"
        )
    if form in _LOSSES:
        return RowError(f"a {form} row gives no {wanted}. Take loss_type={_LOSSES[form]}, or data with {wanted}")
    return RowError(f"{article} {form} row cannot train an outcome reward model. Use PRMTrainer, or data with {wanted}")
