"""Options that commands share, and their texts as values.

In: what stands on the command line or in a run's file. Out: choices, JSON and YAML as Python. Nothing heavy.
"""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..checks import are_texts


def _choices(name: str, values: tuple[str, ...]) -> type[Enum]:
    """The values as typer takes choices."""
    return Enum(name, {value: value for value in values}, type=str)


Overlong = _choices("Overlong", ("drop", "truncate", "error"))
Aggregate = _choices("Aggregate", ("min", "prod", "last", "mean", "soft-min"))
ChatTemplate = _choices("ChatTemplate", ("gemma", "chatml", "llama3"))
DtypeName = _choices("DtypeName", ("float32", "bfloat16", "float16"))
BadRow = _choices("BadRow", ("error", "drop"))

ENCODER_OPTIONS = (
    *("max_length", "max_completion_length", "overlong", "step_separator", "step_token"),
    "chat_template_kwargs",
)
"""options of a run that say how rows are encoded"""

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A trained reward model: folder or hub id, an adapter's too.")
]
Dtype = Annotated[DtypeName | None, typer.Option(help="Of the weights. [default: the checkpoint's]")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: a GPU if there is one]")]
TokensPerBatch = Annotated[int, typer.Option(min=1, help="Unique tokens of a batch: lower it if memory runs out.")]
MaxRows = Annotated[int | None, typer.Option(min=1, help="So many rows at most.")]

Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A json, jsonl, csv, parquet or arrow file (.gz too), a folder of one kind of them, or a hub id.",
        show_default=False,
    ),
]
TokenizerOf = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Whose tokenizer: folder or hub id. Without: no token figures.")
]
Adapter = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Format of the rows: a name, or FILE.py:FUNCTION of your own. [default: found from the columns]",
    ),
]
IgnoreColumns = Annotated[
    str | None,
    typer.Option(metavar="NAMES", help="Columns not to be read, though they look like parts of the prompt: a,b."),
]
OnBadRow = Annotated[
    BadRow | None,
    typer.Option(
        help="Rows that the format, the checks or the chat template refuses: stop, or leave them out, count and name "
        "them. [default: error]"
    ),
]
ColumnMapping = Annotated[
    str | None, typer.Option(metavar="JSON", help="""Expected column -> column of the data: '{"input": "question"}'.""")
]
Split = Annotated[str, typer.Option(help="Split of a hub data set.")]
RowsRead = Annotated[int, typer.Option(min=0, help="Read so many rows; 0 reads all.")]
MaxLength = Annotated[
    int | None, typer.Option(min=0, help="Longest sequence in tokens; 0: no limit. [default: the trainers', 1024]")
]
OverlongRows = Annotated[
    Overlong | None, typer.Option(help="Longer rows. [default: the trainers': drop pairs, truncate steps]")
]
StepSeparator = Annotated[
    str | None, typer.Option(help=r"Text behind each step, \n is a new line. [default: the model's, or \n]")
]
StepToken = Annotated[str | None, typer.Option(help="A reserved token behind each step instead.")]
GoodToken = Annotated[
    str | None, typer.Option(help="PRM that is a causal LM: its token for a right step. [default: the model's]")
]
BadToken = Annotated[str | None, typer.Option(help="Its token for a wrong step. [default: the model's]")]
TemplateName = Annotated[ChatTemplate | None, typer.Option(help="For a tokenizer without a template.")]
RunFile = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="A run's YAML or JSON (--config of the recipes): what is not given here."),
]

AxolotlFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A YAML file with axolotl's keys.", show_default=False)
]

RowsFile = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help='A json, jsonl, csv, parquet or arrow file (.gz too), or a folder of one kind of them; "-": jsonl from '
        "standard input.",
        show_default=False,
    ),
]
ScoresFile = Annotated[
    Path, typer.Option("--out", "-o", metavar="OUT", help='The jsonl file with the scores; "-": standard output.')
]
ScoredLength = Annotated[
    int | None, typer.Option("--max-length", min=1, help="Longest sequence in tokens. [default: the model's positions]")
]
OverlongScored = Annotated[
    Overlong,
    typer.Option(
        "--overlong",
        help="What is longer: rows that cannot be scored, rows that are left out, or prompts that lose their left.",
    ),
]
AggregateName = Annotated[Aggregate, typer.Option("--aggregate", help="PRM: a solution's score from its steps'.")]
Normalize = Annotated[
    bool, typer.Option("--normalize", help="ORM: mean 0, standard deviation 1 on its evaluation data.")
]
AsText = Annotated[
    bool, typer.Option("--as-text", help="Strings stay text, of a model that was trained on conversations too.")
]
TemplateArguments = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs", metavar="JSON", help="""Of the chat template: '{"enable_thinking": false}'."""
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad/--stop-at-bad", help="Rows that cannot be scored: go on (they go to OUT.rejects), or stop."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start again, whatever OUT holds.")]
Column = Annotated[str, typer.Option(help="Name of the new column; 's' is added for several scores.")]

CheckRows = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="jsonl; its first 8 rows are scored. [default: built-in]")
]
CheckDtype = Annotated[
    DtypeName | None, typer.Option("--dtype", help="Compared with fp32 and told. [default: the checkpoint's]")
]

Bench = Annotated[
    str,
    typer.Argument(metavar="BENCH", help="A benchmark's name, or data: file, folder or hub id.", show_default=False),
]
BenchData = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="The benchmark's rows. [default: its own, from the hub]")
]
BenchSplit = Annotated[str | None, typer.Option("--split", help="Split of a hub data set. [default: the benchmark's]")]
BenchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="NAME=VALUE", help="Of the benchmark: threshold=tune, chat=false, ... Several: repeat it."
    ),
]
FiguresFile = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="OUT", help="JSON with the figures and every example.")
]

RunFolder = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's folder (a trainer's `output_dir`).", show_default=False)
]
Page = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="The page. [default: report.html in RUN]")
]


def row_options(
    adapter: Adapter = None,
    column_mapping: ColumnMapping = None,
    ignore_columns: IgnoreColumns = None,
    on_bad_row: OnBadRow = None,
) -> dict[str, Any]:
    """How raw rows are read: the options that are set."""
    options = {
        "adapter": adapter,
        "column_mapping": column_mapping and mapping(column_mapping),
        "ignore_columns": names(ignore_columns),
        "on_bad_row": on_bad_row and on_bad_row.value,
    }
    return {key: value for key, value in options.items() if value is not None}


def scorer_options(
    step_separator: StepSeparator = None,
    good_token: GoodToken = None,
    bad_token: BadToken = None,
    as_text: AsText = False,
    chat_template_kwargs: TemplateArguments = None,
    max_length: ScoredLength = None,
    overlong: OverlongScored = Overlong.error,
    max_tokens_per_batch: TokensPerBatch = 16384,
    dtype: Dtype = None,
    device: Device = None,
) -> dict[str, Any]:
    """Arguments of `RewardScorer.from_pretrained`."""
    options = {
        "step_separator": new_lines(step_separator),
        "good_token": good_token,
        "bad_token": bad_token,
        "as_text": as_text,
        "chat_template_kwargs": chat_template_kwargs and template_arguments(chat_template_kwargs),
        "max_length": max_length,
        "overlong": overlong.value,
        "max_tokens_per_batch": max_tokens_per_batch,
        "device": device,
    }
    return options if dtype is None else {**options, "dtype": dtype.value}


def new_lines(text: str | None) -> str | None:
    r"""
    >>> new_lines(r"\n\n")
    '\n\n'
    """
    return text and text.replace("\\n", "\n")


def mapping(text: str) -> dict[str, str]:
    columns = _json(text)
    if not isinstance(columns, dict) or not are_texts([*columns.values()]):
        raise ValueError(
            f"""--column-mapping {text!r} is no mapping; expected JSON such as '{{"input": "question"}}'."""
        )
    return columns


def names(text: str | None) -> list[str] | None:
    """
    >>> names("system, history"), names(None)
    (['system', 'history'], None)
    """
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def template_arguments(text: str) -> dict[str, Any]:
    arguments = _json(text)
    if not isinstance(arguments, dict):
        raise ValueError(
            f"--chat-template-kwargs {text!r} is no JSON object, such as '{{\"enable_thinking\": false}}'."
        )
    return arguments


def _json(text: str, otherwise: Any = None) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return otherwise


def bench_options(texts: list[str]) -> dict[str, Any]:
    """Options of a benchmark; a value is JSON, or text where it is none.

    >>> bench_options(["threshold=tune", "chat=false"])
    {'threshold': 'tune', 'chat': False}
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"--option {text!r}: expected NAME=VALUE, such as threshold=tune or chat=false.")
        options[name] = _json(value, otherwise=value)
    return options


def run_options(path: Path) -> dict[str, Any]:
    """The options of a run's file, as far as it sets them."""
    from ..data.yaml_file import read_yaml

    options = read_yaml(path, such_as="max_length: 512")
    readers = {"column_mapping": mapping, "chat_template_kwargs": template_arguments, "ignore_columns": names}
    for key, read in readers.items():
        if isinstance(options.get(key), str):
            options[key] = read(options[key])
    if options.get("max_length", 0) is None:  # null means no limit in a config
        options["max_length"] = 0
    return {key: value for key, value in options.items() if value is not None}


def encoder_options(of_model: dict[str, Any], of_run: dict[str, Any]) -> dict[str, Any]:
    """Options of the encoder: a run's or the command line's before the model's; no limit for a `max_length` of 0.

    >>> encoder_options({"step_token": "<s>"}, {"step_separator": "|", "max_length": 0, "seed": 1})
    {'max_length': None, 'step_separator': '|'}
    """
    asked = {key: of_run[key] for key in ENCODER_OPTIONS if key in of_run}
    if "step_separator" in asked:
        of_model = {key: value for key, value in of_model.items() if key != "step_token"}
    if asked.get("max_length") == 0:
        asked["max_length"] = None
    return {**of_model, **asked}
