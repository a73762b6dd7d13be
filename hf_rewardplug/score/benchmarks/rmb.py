"""RMB: pairs, and one best answer against two to six others, of 49 scenarios of two goals.

    rows {conversation_input, category_path} with {chosen, reject} or {bon_best, loser_list}
    scores, one call  ->  does the better answer win, does the best one win against all  ->  accuracy along the path

Zhou et al. 2024 (arXiv:2410.09893), Zhou-Zoey/RMB-Reward-Model-Benchmark: pairs and their accuracy are those of
eval/scripts/my_run_rm.py. The repository has no code for the best-of-n set: the best answer has to win against each
other one, as eval/RMB-Reward-Model-Benchmark of RM-R1-UIUC/RM-R1 computes it.
"""

from typing import Any, NamedTuple

import numpy as np

from hf_rewardplug.checks import RowError, expect
from hf_rewardplug.data.adapters.fields import Row, dicts, field, messages, text
from hf_rewardplug.data.adapters.turns import assistant

from .examples import scored
from .registry import Result, places_of, read_rows, register_benchmark

SOURCE = "arXiv:2410.09893, https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark"
SETS = ("Pairwise_set", "BoN_set")


class _Example(NamedTuple):
    prompt: list[dict]
    completions: list[list[dict]]  # the best one first
    path: str


@register_benchmark(
    "rmb.best_of_n",
    kind="orm",
    columns=("conversation_input", "bon_best", "loser_list", "category_path"),
    source=SOURCE,
)
@register_benchmark(
    "rmb", kind="orm", columns=("conversation_input", "chosen", "reject", "category_path"), source=SOURCE
)
def rmb(scorer: Any, rows: list[Row]) -> Result:
    """RMB (arXiv:2410.09893): is the best answer's score above that of every other one? A tie is wrong.

    Figures: "accuracy/<path>" for each beginning of the rows' `category_path`, each row counted once:
    "accuracy/Pairwise_set", "accuracy/BoN_set/Helpfulness", "accuracy/BoN_set/Helpfulness/Code/Data Management", ...;
    and "accuracy", the mean over the two goals of both sets (of the four the ones that have a row), as its leaderboard
    ranks models. Rows of both sets may stand in the same data.
    """
    examples = read_rows("rmb", rows, _read, columns=("conversation_input", "category_path"))
    prompts, completions = [example.prompt for example in examples], [example.completions for example in examples]
    scores = scored("rmb", scorer, prompts, completions, places=places_of(rows))
    items = [
        {
            "prompt": example.prompt,
            "completions": example.completions,
            "scores": row,
            "right": row[0] > max(row[1:]),
            "subset": example.path,
        }
        for example, row in zip(examples, scores, strict=True)
    ]
    return Result("rmb", _figures([item["right"] for item in items], [example.path for example in examples]), items)


def _figures(rights: list[bool], paths: list[str]) -> dict[str, float]:
    """
    >>> paths = ["BoN_set/Harmlessness/S1", "BoN_set/Harmlessness/S1", "Pairwise_set/Helpfulness/Chat/Discussion"]
    >>> figures = _figures([True, False, True], paths)
    >>> figures["accuracy"], figures["accuracy/BoN_set"], figures["n/Pairwise_set/Helpfulness/Chat"]
    (0.75, 0.5, 1)
    """
    by_path: dict[str, list[bool]] = {}
    for right, path in zip(rights, paths, strict=True):
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            by_path.setdefault("/".join(parts[:length]), []).append(right)
    means = {path: float(np.mean(of)) for path, of in sorted(by_path.items())}
    overall = float(np.mean([mean for path, mean in means.items() if path.count("/") == 1]))
    counts = {"n": len(rights), **{f"n/{path}": len(by_path[path]) for path in means}}
    return {"accuracy": overall, **{f"accuracy/{path}": mean for path, mean in means.items()}, **counts}


def _read(row: Row) -> _Example:
    path = text(row, "category_path")
    if path.split("/")[0] not in SETS or path.count("/") < 2:
        raise RowError(f"expected '{SETS[0]}/<goal>/<scenario>' or '{SETS[1]}/...', found {path!r}", "category_path")
    if row.get("bon_best") is not None:
        answers = [
            _answer(row, "bon_best"),
            *(text(loser, "answer", "loser_list") for loser in dicts(row, "loser_list")),
        ]
        if len(answers) < 2:
            raise RowError("there is no other answer", "loser_list")
    else:
        answers = [_answer(row, "chosen"), _answer(row, "reject")]
    turns = [{"role": turn["role"], "content": text(turn, "content", "conversation_input")} for turn in _turns(row)]
    return _Example(turns, [[assistant(answer)] for answer in answers], path)


def _turns(row: Row) -> list[dict]:
    """Without `language`, which no template knows."""
    turns = messages(row, "conversation_input")
    if turns[-1]["role"] != "user":
        raise RowError(f"the last turn is the {turns[-1]['role']}'s; expected the user's", "conversation_input")
    return turns


def _answer(row: Row, column: str) -> str:
    return text(expect(field(row, column), dict, "{'llm_name', 'answer'}", column), "answer", column)
