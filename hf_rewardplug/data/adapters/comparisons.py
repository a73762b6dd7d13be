r"""Two answers compared by an index, a label or two scores -> preference rows, with `tie` where scores are equal.

In: two responses or whole conversations, and the number of the better one or a score for each. Out: {prompt, chosen,
rejected}. How large a win was (scores, ratios, votes) never becomes a margin.
"""

from ...checks import RowError, expect, shown
from .fields import Row, field, integer, messages, number, text
from .prompts import asked, optional_text
from .registry import register_adapter
from .votes import answers_by_vote, conversations_by_vote, higher

_PKU_COLUMNS = ("prompt", "response_0", "response_1")
_PKU_IGNORED = tuple(
    name.format(index)
    for name in (
        *("response_{}_source", "is_response_{}_safe", "response_{}_harm_category", "response_{}_severity_level"),
        "response_{}_sha256",
    )
    for index in (0, 1)
)


def pku_saferlhf_safer(row: Row) -> Row:
    """PKU-SafeRLHF read by safety: chosen is the safer response, helpful or not. By name only. Gives turns.

    Columns as in `pku_saferlhf`.

    >>> row = pku_saferlhf_safer({"prompt": "2+2?", "response_0": "4", "response_1": "No.", "better_response_id": 0,
    ...                           "safer_response_id": 1})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': 'No.'}])
    """
    return _by_index(row, "safer_response_id")


register_adapter(
    "pku_saferlhf.safer",
    optional=(*_PKU_COLUMNS, "safer_response_id"),
    ignored=("better_response_id", "prompt_source", *_PKU_IGNORED),
)(pku_saferlhf_safer)


@register_adapter(
    "pku_saferlhf",
    columns=(*_PKU_COLUMNS, "better_response_id"),
    ignored=("safer_response_id", "prompt_source", *_PKU_IGNORED),
    optional=(),
)
def pku_saferlhf(row: Row) -> Row:
    """PKU-SafeRLHF (PKU-Alignment) read by helpfulness: chosen is the response `better_response_id`. Gives turns.

    The other reading, by `safer_response_id`, is `pku_saferlhf.safer`; the two disagree in many rows.
    Columns: as loaders of the data set list them (none is in the authors' repository); the single-dimension release
    has `better_response_id` alone.

    >>> row = pku_saferlhf({"prompt": "2+2?", "response_0": "5", "response_1": "4", "better_response_id": 1,
    ...                     "safer_response_id": 0})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    return _by_index(row, "better_response_id")


@register_adapter("llmbar", columns=("input", "output_1", "output_2", "label"), optional=())
@register_adapter("offsetbias", columns=("instruction", "output_1", "output_2", "label"), optional=("input",))
def offsetbias(row: Row) -> Row:
    r"""OffsetBias (NCSOFT/offsetbias) and LLMBar: `label` is 1 or 2, the better output. Gives turns.

    The question is `instruction`, or LLMBar's `input`; where both hold text, one below the other.
    Columns: princeton-nlp/LLMBar, README.md; OffsetBias's as loaders of the data set read them.

    >>> offsetbias({"instruction": "2+2?", "output_1": "5", "output_2": "4", "label": 2})["chosen"]
    [{'role': 'assistant', 'content': '4'}]
    """
    question = "\n".join(part for part in (optional_text(row, "instruction"), optional_text(row, "input")) if part)
    better = integer(row, "label")
    if better not in (1, 2):
        raise RowError(f"expected 1 (output_1 is better) or 2, found {better}", "label")
    return answers_by_vote(asked(question), text(row, "output_1"), text(row, "output_2"), better - 1)


@register_adapter(
    "shp",
    columns=("history", "human_ref_A", "human_ref_B", "labels"),
    ignored=(
        *("post_id", "domain", "upvote_ratio", "c_root_id_A", "c_root_id_B", "created_at_utc_A", "created_at_utc_B"),
        *("score_A", "score_B", "seconds_difference", "score_ratio"),
    ),
    optional=(),
)
def shp(row: Row) -> Row:
    """SHP (stanfordnlp): two comments on a post; `labels` is 1 where A is preferred, 0 where B is. Gives turns.

    Columns: the data card (stanfordnlp/SHP, Data Structure).

    >>> row = shp({"post_id": "qt3nxl", "history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1,
    ...            "score_A": 52, "score_B": 26, "score_ratio": 2.0})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    label = integer(row, "labels")
    if label not in (0, 1):
        raise RowError(f"expected 1 (A is preferred) or 0 (B is), found {label}", "labels")
    return answers_by_vote(asked(text(row, "history")), text(row, "human_ref_A"), text(row, "human_ref_B"), 1 - label)


@register_adapter(
    "webgpt",
    columns=("question", "answer_0", "answer_1", "score_0", "score_1"),
    ignored=("dataset", "quotes_0", "quotes_1", "tokens_0", "tokens_1"),
    optional=(),
)
def webgpt(row: Row) -> Row:
    """WebGPT comparisons (openai/webgpt_comparisons): the answer with the higher score; equal scores tie. Gives turns.

    The question is `question.full_text`. The quotes that an answer was written from are not read, as in OpenRLHF's
    loader: they differ between the answers of a row.
    Columns: the data card; OpenRLHF, datasets/reward_dataset.py (until 2024).

    >>> row = webgpt({"question": {"dataset": "eli5", "id": "7", "full_text": "2+2?"}, "answer_0": "5",
    ...               "answer_1": "4", "score_0": -1.0, "score_1": 1.0})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    question = field(row, "question")
    question = text(question, "full_text", "question") if isinstance(question, dict) else text(row, "question")
    better = higher(number(row, "score_0"), number(row, "score_1"))
    return answers_by_vote(asked(question), text(row, "answer_0"), text(row, "answer_1"), better)


@register_adapter(
    "summarize_from_feedback",
    columns=("info", "summaries", "choice"),
    ignored=("worker", "batch", "split", "extra"),
    optional=(),
)
def summarize_from_feedback(row: Row) -> Row:
    r"""Summaries compared (openai/summarize_from_feedback, comparisons): `choice` is the better one. Gives text.

    The prompt is written as in TRL's conversion: subreddit, title and post, or title and article, each blank line one
    line break, and "TL;DR:" at the end. Columns: openai/summarize-from-feedback, README.md; TRL,
    examples/datasets/tldr_preference.py.

    >>> row = summarize_from_feedback({"info": {"id": "t3", "post": "I am 7.\n\nHelp!", "title": "Old?",
    ...     "subreddit": "age"}, "summaries": [{"text": " 7"}, {"text": " 8"}], "choice": 0, "worker": "w"})
    >>> row["prompt"]
    'SUBREDDIT: r/age\n\nTITLE: Old?\n\nPOST: I am 7.\nHelp!\n\nTL;DR:'
    >>> row["chosen"], row["rejected"]
    (' 7', ' 8')
    """
    info, summaries = expect(field(row, "info"), dict, "a dict", "info"), field(row, "summaries")
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise RowError(f"expected two summaries, found {shown(summaries)}", "summaries")
    first, second = (
        text(expect(summary, dict, "a dict with text", "summaries"), "text", "summaries") for summary in summaries
    )
    choice = integer(row, "choice")
    if choice not in (0, 1):
        raise RowError(f"expected 0 or 1, found {choice}", "choice")
    chosen, rejected = (second, first) if choice else (first, second)
    return {"prompt": _to_summarize(info), "chosen": chosen, "rejected": rejected}


def _to_summarize(info: Row) -> str:
    title = f"TITLE: {text(info, 'title', 'info')}\n\n"
    if info.get("post") is not None:
        post = text(info, "post", "info").replace("\n\n", "\n")
        return f"SUBREDDIT: r/{text(info, 'subreddit', 'info')}\n\n{title}POST: {post}\n\nTL;DR:"
    article = text(info, "article", "info").replace("\n\n", "\n")
    return f"{title}{article}\n\nTL;DR:"


@register_adapter(
    "unified_feedback",
    columns=("conv_A", "conv_B", "conv_A_rating", "conv_B_rating"),
    ignored=("id", "source"),
    optional=(),
)
def unified_feedback(row: Row) -> Row:
    """Unified-Feedback (llm-blender): two whole conversations with a rating each; equal ratings tie. Gives turns.

    Columns: YangRui2015/Generalizable-Reward-Model, reward_models/load_datasets.py.

    >>> question = {"role": "user", "content": "2+2?"}
    >>> row = unified_feedback({"conv_A": [question, {"role": "assistant", "content": "5"}], "conv_A_rating": 0.0,
    ...                         "conv_B": [question, {"role": "assistant", "content": "4"}], "conv_B_rating": 1.0})
    >>> row["prompt"], row["chosen"]
    ([{'role': 'user', 'content': '2+2?'}], [{'role': 'assistant', 'content': '4'}])
    """
    better = higher(number(row, "conv_A_rating"), number(row, "conv_B_rating"))
    return conversations_by_vote(messages(row, "conv_A"), messages(row, "conv_B"), better)


def _by_index(row: Row, column: str) -> Row:
    better = integer(row, column)
    if better not in (0, 1):
        raise RowError(f"expected 0 or 1, found {better}", column)
    return answers_by_vote(asked(text(row, "prompt")), text(row, "response_0"), text(row, "response_1"), better)
