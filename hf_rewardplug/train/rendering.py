"""The date of a run, where its chat template writes one, and what checkpoints say of the rows that were trained on.

In: the tokenizer and the config of a trainer, what its rows looked like. Out: a template that writes one date on every
day, and the entries of a checkpoint's `config.rewardplug` by which a scorer renders as training did:

    rows                     "text", "turns" or "both"; missing where the rows came as tokens
    chat_template_kwargs     arguments of the chat template, where all conversations had the same
    date                     the day that the saved template writes, where it writes one
"""

import json
import logging
from datetime import date
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import CONFIG_NAME

from ..data.row_forms import TEXT, TURNS, RowLooks
from ..data.template_dates import freeze_date, frozen_date, may_write_date, today, writes_date
from ..model.description import Description
from ..model.loading import ADAPTER_MODEL_CONFIG

logger = logging.getLogger(__name__)


def freeze_run_date(tokenizer: PreTrainedTokenizerBase, args: Any) -> str | None:
    """Write the date of the run into a template that would write today's, in every rank the same.

    A run that goes on from a checkpoint has the date of its first day, and so the same tokens. The rows are encoded
    before anybody asks for a resume, so the newest checkpoint in `output_dir` counts where the config names none.

    Returns:
        A notice; None where conversations show no date, or show one and the same on every day.
    """
    if not may_write_date(tokenizer):
        return None
    shows = writes_date(tokenizer, **(args.chat_template_kwargs or {}))
    folder = checkpoint_to_resume(args)
    days = [(folder and date_of_checkpoint(folder)) or today(tokenizer).isoformat()]
    if args.world_size > 1:
        broadcast_object_list(days)
    freeze_date(tokenizer, date.fromisoformat(days[0]))
    if not shows:
        return None
    of_checkpoint = folder and date_of_checkpoint(folder) == days[0]
    source = f"that of the checkpoint '{folder}'" if of_checkpoint else "today's"
    return (
        f"The chat template writes the date into the prompt. In this run, and in the template that is saved with the "
        f"model, it is {days[0]} ({source}): a score must not change from day to day, and a run that is resumed must "
        "train on the same tokens. Where the template takes the date as an argument, `chat_template_kwargs` sets it."
    )


def checkpoint_to_resume(args: Any) -> str | None:
    """The folder of the checkpoint that a run may go on from: the config's own, or the newest in `output_dir`."""
    asked = args.resume_from_checkpoint
    if isinstance(asked, str) and Path(asked).is_dir():
        return asked
    return get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None


def date_of_checkpoint(folder: str | Path) -> str | None:
    """The date in the template of a checkpoint of this package, as 2026-11-30."""
    for name in (CONFIG_NAME, ADAPTER_MODEL_CONFIG):
        try:
            config = json.loads(Path(folder, name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if day := Description.of(config).date:
            return day
    return None


def check_date(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Raises:
        ValueError: the checkpoint was trained on rows with another date than those that are encoded here.
    """
    before, now = date_of_checkpoint(folder), frozen_date(tokenizer)
    if before is not None and now is not None and before != now:
        raise ValueError(
            f"The run in '{folder}' was trained with the date {before} in every prompt, and here the rows are encoded "
            f"with {now}. Name the checkpoint in the config too (`resume_from_checkpoint={str(folder)!r}`): then the "
            "rows get its date."
        )


def description(looks: RowLooks, tokenizer: PreTrainedTokenizerBase, args: Any) -> dict[str, Any]:
    """What a checkpoint says of its rows."""
    kwargs = looks.chat_template_kwargs
    entries = {
        "rows": looks.rows,
        "chat_template_kwargs": dict((args.chat_template_kwargs if kwargs is None else kwargs) or {}) or None,
        "date": frozen_date(tokenizer),
    }
    return {key: value for key, value in entries.items() if value is not None}


def warn_of_row_forms(name: str, looks: dict[str, RowLooks], *, date_notice: str | None = None) -> None:
    """Warn of rows in two forms, and of eval rows in another form than those that are trained on.

    Args:
        date_notice: what `freeze_run_date` returned. It concerns conversations alone.
    """
    own, trained = looks[name], looks.get("train")
    if date_notice is not None and own.rows != TEXT:
        logger.warning("%s", date_notice)
    if own.rows == "both":
        logger.warning(
            "%s: %d examples are text and %d are conversations. A model of both scores strings as text and messages as "
            "conversations, each as it is handed over; train on one form if its users have one.",
            *(name, own.count(TEXT), own.count(TURNS)),
        )
    elif name != "train" and trained is not None and {own.rows, trained.rows} == {TEXT, TURNS}:
        words = {TEXT: "text", TURNS: "conversations"}
        logger.warning(
            "%s: the examples are %s, but those of the train data set are %s: the model is evaluated on what it has "
            "not been trained on.",
            *(name, words[own.rows], words[trained.rows]),
        )
