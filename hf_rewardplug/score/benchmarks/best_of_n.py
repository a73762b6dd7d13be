"""Best of n: how often the answer that is picked from n samples is right, for n = 1, 2, 4, ..., N.

    rows {prompt, completions (N), correct (N), optional answers (N)}  ->  one call of the scorer  ->  scores
    scores, correct, answers  ->  the expectation over all subsets of n of the N samples  ->  curves "rm@4", "pass@4"

Cobbe et al. 2021 (arXiv:2110.14168) pick by an outcome reward model, Lightman et al. 2023 (arXiv:2305.20050) by a
process reward model (the product or the minimum of its steps), Uesato et al. 2022 (arXiv:2211.14275) by votes weighted
with its scores. prm800k/eval/eval.py of openai/prm800k draws 400 random subsets without repetition for each n, and
leaves out a subset's samples without an answer before it picks; what that estimates is computed here, exactly but for
votes over many subsets.

    N samples of a prompt, D subsets of n of them, A different answers
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import combinations
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError, expect, is_whole, shown
from hf_rewardplug.data.adapters import Adapter
from hf_rewardplug.data.adapters.fields import TEMPLATE_ARGUMENTS, Row, field, items
from hf_rewardplug.data.canonical import template_arguments

from ..aggregates import aggregated
from ..inputs import Completions, cut_into_steps
from .examples import scored, step_probabilities, template_columns
from .registry import Result, numbers_of, read_rows, register_benchmark

_COLUMNS = ("prompt", "completions", "correct")
CURVES = ("min", "prod", "last", "mean")
"""how a process reward model's steps become one score: `hf_rewardplug.score.aggregates`"""


class Samples(NamedTuple):
    """A prompt's samples; `answers`: their final answers, where the data have them (None in the list: it gave none);
    `prompts`: of each, with the turns before its last one, for a process reward model."""

    prompt: Any
    completions: list
    correct: list[bool]
    answers: list[str | None] | None
    prompts: Sequence[Any] = ()
    arguments: Row = {}


@register_benchmark(
    "best_of_n",
    kind="orm",
    columns=_COLUMNS,
    format=Adapter("best_of_n", lambda row: row, _COLUMNS, optional=("answers", *TEMPLATE_ARGUMENTS)),
    source="arXiv:2110.14168, arXiv:2305.20050, https://github.com/openai/prm800k",
)
def best_of_n(
    scorer: Any, rows: list[Row], *, draws: int = 1000, seed: int = 0, step_separator: str | None = None
) -> Result:
    """Accuracy of each way to pick one of n samples, in expectation over the subsets of n of a row's N samples.

    `rm@n`: the reward model's highest score (`expected_pick`, exact). Of a process reward model `rm_min@n`,
    `rm_prod@n`, `rm_last@n` and `rm_mean@n`, by what makes one score of its steps. Where the rows have answers, a
    sample whose answer is None is never picked, and a subset of such samples is wrong. `pass@n`: any is right
    (`expected_pass`, exact): the ceiling. `mean`: a random pick. Where the rows have answers: `majority@n`, the most
    frequent answer, and `weighted@n` (`weighted_min@n`, ...), the one with the highest sum of scores, an outcome reward
    model's through a sigmoid, since a sum of negative rewards would vote against what is frequent (`expected_vote`:
    exact where there are at most `draws` subsets, else over `draws` seeded ones). Ties are split evenly.

    n: the powers of two below the smallest N of the rows, and that N (`samples`). `n`: rows.

    Args:
        draws: random subsets a row for votes. One row's standard error is at most 0.5 / sqrt(draws).
        step_separator: a text is cut into steps at it for a process reward model, and steps joined with it for an
            outcome reward model; the scorer's own when None.
    """
    step_separator = step_separator or getattr(scorer, "separator", "\n\n")
    prepare = partial(_as_steps if _rates_steps(scorer) else _as_text, separator=step_separator)
    read = read_rows("best_of_n", rows, lambda row: _samples(row, prepare))
    numbers = numbers_of(rows)
    _check_answers(read, numbers)
    if not is_whole(draws, 1):
        raise ValueError(f"draws={draws!r} is no number of subsets. Give 1 or more.")
    scores = _scores(scorer, read, numbers)
    smallest = min(len(samples.completions) for samples in read)
    sizes = [2**power for power in range(smallest.bit_length()) if 2**power < smallest] + [smallest]
    rated = []
    for number, samples, of_row in zip(numbers, read, scores, strict=True):
        figures = _row_figures(
            samples, of_row, sizes, draws=draws, seed=(seed, number), sigmoid=not _rates_steps(scorer)
        )
        first = next(iter(of_row))
        rated.append(
            {
                "row": number,
                "prompt": samples.prompt,
                "completions": samples.completions,
                "scores": of_row[first] if len(of_row) == 1 else of_row,
                "correct": samples.correct,
                "right": expected_pick(*_pickable(samples, of_row[first]), len(samples.correct)),
                "figures": figures,
            }
        )
    means = {name: fmean(item["figures"][name] for item in rated) for name in rated[0]["figures"]}
    return Result("best_of_n", {**means, "n": len(read), "samples": smallest}, rated)


def _check_answers(read: list[Samples], numbers: Sequence[int]) -> None:
    """A `ValueError` where some rows have answers and others have none: votes would be over some of the rows."""
    voted = [samples.answers is not None for samples in read]
    if any(voted) and not all(voted):
        raise ValueError(
            f"benchmark 'best_of_n', row {numbers[voted.index(False)]}: column 'answers' is missing, and other rows "
            "have it. Give every row its answers, or none."
        )


def expected_pick(scores: list[float], correct: list[bool], size: int) -> float:
    """Accuracy of the highest score among `size` of N samples, over all subsets; a closed form.

    The subsets whose best score is that of a group of m equal ones, with a lower scores below it, are C(a + m, n) -
    C(a, n) of C(N, n), and each of the group is picked equally often. The sum over the groups of this share times the
    group's share of right samples is the expectation.

    >>> expected_pick([0.1, 0.9, 0.5], [True, False, True], 2)  # two of the three pairs hold the wrong sample
    0.3333333333333333
    >>> expected_pick([0.5, 0.5], [True, False], 2)
    0.5
    """
    _, groups, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(groups.ravel(), weights=np.asarray(correct, dtype=float)) / counts
    within, upto = _shares_within(len(scores), size), np.cumsum(counts)
    return float(((within[upto] - within[upto - counts]) * shares).sum())


def expected_pass(correct: list[bool], size: int) -> float:
    """Share of the subsets of `size` with a right sample: 1 - C(N - right, n) / C(N, n) (arXiv:2107.03374, eq. 1).

    >>> expected_pass([True, False, False], 2)
    0.6666666666666667
    """
    return float(1 - _shares_within(len(correct), size)[len(correct) - sum(correct)])


def expected_vote(
    answers: list[str | None], correct: list[bool], weights: list[float], size: int, *, draws: int, seed: Any
) -> float:
    """Accuracy of the answer with the highest sum of weights, over subsets of `size`; tied answers share evenly.

    The mean over all C(N, n) subsets where there are at most `draws` of them, else over `draws` random ones, the same
    for the same `seed`. A sample without an answer has no vote; a subset of such samples counts as wrong.

    >>> votes = [["7", "7", "8"], [False, False, True], [0.2, 0.2, 0.5]]
    >>> expected_vote(*votes, 3, draws=10, seed=0)  # 0.5 outweighs 0.2 + 0.2
    1.0
    >>> expected_vote(*votes, 2, draws=10, seed=0)  # (7, 7), (7, 8), (7, 8)
    0.6666666666666666
    """
    names = sorted({answer for answer in answers if answer is not None})
    if not names:
        return 0.0
    one_hot_NA = np.array([[answer == name for name in names] for answer in answers], dtype=float)
    right_A = np.array([correct[answers.index(name)] for name in names], dtype=float)
    chosen_DN = _subsets(len(answers), size, draws, seed).astype(float)
    there_DA = chosen_DN @ one_hot_NA > 0
    votes_DA = np.where(there_DA, chosen_DN @ (one_hot_NA * np.asarray(weights, dtype=float)[:, None]), -np.inf)
    best_D = votes_DA.max(axis=1, keepdims=True)
    winners_DA = there_DA & (votes_DA >= best_D - 1e-12 * np.abs(best_D))
    return float((winners_DA @ right_A / np.maximum(winners_DA.sum(axis=1), 1)).mean())


def _pickable(samples: Samples, scores: list[float]) -> tuple[list[float], list[bool]]:
    """Scores and correctness with the samples that gave no answer below all others, and wrong where nothing is left.

    >>> _pickable(Samples("p", ["a", "b"], [False, True], [None, "7"]), [0.9, 0.5])
    ([-inf, 0.5], [False, True])
    """
    answered = [True] * len(scores) if samples.answers is None else [answer is not None for answer in samples.answers]
    scores = [score if there else -math.inf for score, there in zip(scores, answered, strict=True)]
    return scores, [right and there for right, there in zip(samples.correct, answered, strict=True)]


@lru_cache(maxsize=256)
def _shares_within(total: int, size: int) -> np.ndarray:
    """C(i, n) / C(N, n) for i = 0, ..., N: the share of the subsets of `size` that lie within the first i samples."""
    upto = np.arange(total, 0, -1)
    return np.concatenate([np.cumprod(np.maximum(upto - size, 0) / upto)[::-1], [1.0]])


@lru_cache(maxsize=1)  # the votes of a row and size, one after another
def _subsets(total: int, size: int, draws: int, seed: Any) -> np.ndarray:
    """(D, total) masks: every subset where there are at most `draws`, else so many random ones, nested in `size`."""
    if math.comb(total, size) <= draws:
        chosen = np.array(list(combinations(range(total), size)))
        masks = np.zeros((len(chosen), total), dtype=bool)
        np.put_along_axis(masks, chosen, True, axis=1)
        return masks
    places = np.tile(np.arange(total), (draws, 1))
    return np.random.default_rng(seed).permuted(places, axis=1) < size


def _samples(row: Row, prepare: Callable[[Any, Any], tuple]) -> Samples:
    completions, correct, answers = items(row, "completions"), items(row, "correct"), row.get("answers")
    if not completions:
        raise RowError("there are no completions", "completions")
    for column, values in (("correct", correct), ("answers", answers)):
        if values is not None and len(expect(values, list, "a list", column)) != len(completions):
            raise RowError(f"{len(values)} values for {len(completions)} completions", column)
    if wrong := [value for value in correct if value not in (0, 1)]:
        raise RowError(f"expected True or False, found {shown(wrong[0])}", "correct")
    graded: dict[str, bool] = {}
    for answer, right in zip(answers or [], correct, strict=False):
        if answer is not None and graded.setdefault(expect(answer, str, "text or None", "answers"), right) != right:
            raise RowError(f"{shown(answer)} is right in one completion and wrong in another", "answers")
    prompt = expect(field(row, "prompt"), str | list, "text or messages", "prompt")
    prompts, completions = zip(*(prepare(prompt, completion) for completion in completions), strict=True)
    arguments = template_arguments(row)
    return Samples(prompt, [*completions], [bool(right) for right in correct], answers, prompts, arguments)


def _as_text(prompt: Any, completion: Any, separator: str) -> tuple[Any, Any]:
    """A completion for an outcome reward model: steps are joined, text and messages stay as they are.

    >>> _as_text("p", ["2+2=4", "4+2=6"], " ")
    ('p', '2+2=4 4+2=6')
    """
    return prompt, separator.join(completion) if _is_steps(completion) else completion


def _as_steps(prompt: Any, completion: Any, separator: str) -> tuple[Any, list[str]]:
    """A completion for a process reward model: text, or that of the last turn, is cut into steps, none of them empty.

    >>> _as_steps("p", "2+2=4 | 4+2=6 | ", " | ")
    ('p', ['2+2=4', '4+2=6'])
    """
    if _is_steps(completion):
        return prompt, [step for step in completion if step.strip()] or completion[:1]
    row = {"prompt": prompt, "completion": completion}
    row = cut_into_steps(row if isinstance(completion, str) else Completions.row(**row), separator)
    return row["prompt"], row["completions"]


def _is_steps(completion: Any) -> bool:
    """Whether it is a list of steps; text and messages are none.

    Raises:
        RowError: it is none of the three.
    """
    if not isinstance(completion, str) and (not completion or not isinstance(completion, list)):
        raise RowError(f"expected text, steps or messages, found {shown(completion)}", "completions")
    return isinstance(completion, list) and all(isinstance(step, str) for step in completion)


def _scores(scorer: Any, read: list[Samples], numbers: Sequence[int]) -> list[dict[str, list[float]]]:
    """Scores of every row's samples, by name: "rm", or "rm_min" and so on."""
    if not _rates_steps(scorer):
        places, arguments = [f"row {number}" for number in numbers], [samples.arguments for samples in read]
        asked = [samples.prompt for samples in read], [samples.completions for samples in read]
        rewards = scored("best_of_n", scorer, *asked, places=places, **template_columns(arguments))
        return [{"rm": scores} for scores in rewards]
    asked = [solution for samples in read for solution in zip(samples.prompts, samples.completions, strict=True)]
    places = [f"row {number}" for number, samples in zip(numbers, read, strict=True) for _ in samples.completions]
    arguments = [samples.arguments for samples in read for _ in samples.completions]
    steps = iter(step_probabilities(scorer, "best_of_n", asked, places=places, arguments=arguments))
    of_rows = [[next(steps) for _ in samples.completions] for samples in read]
    return [{f"rm_{name}": [aggregated(values, name) for values in row] for name in CURVES} for row in of_rows]


def _rates_steps(scorer: Any) -> bool:
    return getattr(scorer, "kind", "orm") == "prm"


def _row_figures(
    samples: Samples, scores: dict[str, list[float]], sizes: list[int], *, draws: int, seed: Any, sigmoid: bool
) -> dict[str, float]:
    figures = {"mean": fmean(samples.correct)}
    weights = {"majority": np.ones(len(samples.correct))}
    for name, values in scores.items():
        values = np.asarray(values)
        weights[name.replace("rm", "weighted", 1)] = np.exp(-np.logaddexp(0, -values)) if sigmoid else values
    pickable = {name: _pickable(samples, values) for name, values in scores.items()}
    for size in sizes:
        figures |= {f"{name}@{size}": expected_pick(*picks, size) for name, picks in pickable.items()}
        figures[f"pass@{size}"] = expected_pass(samples.correct, size)
        for name, votes in weights.items() if samples.answers is not None else ():
            figures[f"{name}@{size}"] = expected_vote(
                samples.answers, samples.correct, votes, size, draws=draws, seed=seed
            )
    return figures
