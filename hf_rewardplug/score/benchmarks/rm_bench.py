"""RM-Bench: three chosen and three rejected answers, of three styles each -> accuracy of every style against every one.

Source: arXiv:2410.16184, https://github.com/THU-KEG/RM-Bench: compute_accuracy (README.md, scripts/utils.py); the
averages as https://github.com/THU-KEG/RM-Bench-Leaderboard states them.

                     rejected:  concise  plain   markdown
    chosen: concise             normal   hard    hard
            plain               easy     normal  hard
            markdown            easy     easy    normal
"""

from typing import Any

import numpy as np

from hf_rewardplug.data.adapters.fields import items as list_of
from hf_rewardplug.data.adapters.fields import text
from hf_rewardplug.data.canonical import RowError

from .examples import as_chat, scored
from .registry import Result, Row, read_rows, register_benchmark

STYLES = ("concise", "plain", "markdown")  # the longer and the more formatted the further right
DOMAINS = ("chat", "math", "code", "safety")
_LEVELS = {"easy": np.tri(3, k=-1) > 0, "normal": np.eye(3) > 0, "hard": np.tri(3, k=-1).T > 0}


@register_benchmark(
    "rm_bench",
    kind="orm",
    hub="THU-KEG/RM-Bench",
    split="train",
    columns=("prompt", "chosen", "rejected", "domain"),
    matches=lambda row: isinstance(row.get("chosen"), list) and len(row["chosen"]) == len(STYLES),
    source="arXiv:2410.16184, https://github.com/THU-KEG/RM-Bench",
)
def rm_bench(scorer: Any, rows: list[Row], *, chat: bool = True) -> Result:
    """RM-Bench (arXiv:2410.16184): does the chosen answer win whatever the styles? A tie is wrong.

    Figures: "accuracy/<domain>" and "accuracy/<domain>/easy", ".../normal", ".../hard" (safety: both of its subdomains,
    by rows, which its leaderboard does not say); "accuracy/easy", ..., and "accuracy/<style>><style>" (chosen >
    rejected) are means over the domains, and "accuracy" is the mean of the domains. Domains without a row are left out.

    Args:
        chat: prompts and answers are turns; False: plain text.
    """

    def read(row: Row) -> tuple:
        domain = next((name for name in DOMAINS if text(row, "domain").startswith(name)), None)
        if domain is None:
            raise RowError(f"{row['domain']!r} is none of RM-Bench's: {', '.join(DOMAINS)}", "domain")
        answers = []
        for column in ("chosen", "rejected"):
            styles = list_of(row, column)
            if len(styles) != len(STYLES) or not all(isinstance(answer, str) for answer in styles):
                raise RowError(f"expected three texts: {', '.join(STYLES)}", column)
            answers += styles
        return *as_chat(text(row, "prompt"), answers, chat=chat), domain

    examples = read_rows("rm_bench", rows, read)
    scores = scored("rm_bench", scorer, [example[0] for example in examples], [example[1] for example in examples])
    wins_RCJ = np.array([np.array(row[:3])[:, None] > np.array(row[3:])[None, :] for row in scores])
    items = [
        {"prompt": prompt, "completions": six, "scores": row, "right": float(wins_CJ.mean()), "subset": domain}
        for (prompt, six, domain), row, wins_CJ in zip(examples, scores, wins_RCJ, strict=True)
    ]
    return Result("rm_bench", _figures(wins_RCJ, [example[2] for example in examples]), items)


def _figures(wins_RCJ: np.ndarray, domains: list[str]) -> dict[str, float]:
    """R rows, C styles of the chosen answer, J of the rejected one -> all figures."""
    matrices, counts, figures = {}, {"n": len(domains)}, {}
    for domain in DOMAINS:
        of_domain = [index for index, name in enumerate(domains) if name == domain]
        if of_domain:
            matrices[domain], counts[f"n/{domain}"] = wins_RCJ[of_domain].mean(axis=0), len(of_domain)
    mean_CJ = np.mean(list(matrices.values()), axis=0)
    for prefix, matrix_CJ in {"accuracy": mean_CJ, **{f"accuracy/{name}": of for name, of in matrices.items()}}.items():
        figures[prefix] = float(matrix_CJ.mean())
        figures |= {f"{prefix}/{level}": float(matrix_CJ[cells].mean()) for level, cells in _LEVELS.items()}
    for row, chosen in enumerate(STYLES):
        figures |= {f"accuracy/{chosen}>{style}": float(mean_CJ[row, column]) for column, style in enumerate(STYLES)}
    return {**figures, **counts}
