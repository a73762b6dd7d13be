"""Options that commands share, and their texts as values.

In: what stands on the command line or in a run's file. Out: choices, JSON and YAML as Python. Nothing heavy.
"""

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

Overlong = Enum("Overlong", {name: name for name in ("drop", "truncate", "error")}, type=str)
Aggregate = Enum("Aggregate", {name: name for name in ("min", "prod", "last", "mean", "soft-min")}, type=str)
ChatTemplate = Enum("ChatTemplate", {name: name for name in ("gemma", "chatml", "llama3")}, type=str)

DtypeName = Enum("DtypeName", {name: name for name in ("float32", "bfloat16", "float16")}, type=str)

BadRow = Enum("BadRow", {name: name for name in ("error", "drop")}, type=str)

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


def mapping(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError(
            f"""--column-mapping {text!r} is no mapping; expected JSON such as '{{"input": "question"}}'."""
        )
    return found


def names(text: str | None) -> list[str] | None:
    """
    >>> names("system, history"), names(None)
    (['system', 'history'], None)
    """
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def template_arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"--chat-template-kwargs {text!r} is no JSON object, such as '{{\"enable_thinking\": false}}'."
        )
    return found


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
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def run_options(path: Path) -> dict[str, Any]:
    """The options of a run's file, as far as it sets them."""
    from ..data.yaml_file import read_yaml

    found = read_yaml(path, such_as="max_length: 512")
    if isinstance(found.get("column_mapping"), str):
        found["column_mapping"] = mapping(found["column_mapping"])
    if isinstance(found.get("chat_template_kwargs"), str):
        found["chat_template_kwargs"] = template_arguments(found["chat_template_kwargs"])
    if isinstance(found.get("ignore_columns"), str):
        found["ignore_columns"] = names(found["ignore_columns"])
    if found.get("max_length", 0) is None:  # no limit, in a config
        found["max_length"] = 0
    return {key: value for key, value in found.items() if value is not None}


def encoder_options(of_model: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options of the encoder: a run's or the command line's before the model's; no limit for a `max_length` of 0.

    >>> encoder_options({"step_token": "<s>"}, {"step_separator": "|", "max_length": 0, "seed": 1})
    {'max_length': None, 'step_separator': '|'}
    """
    asked = {key: given[key] for key in ENCODER_OPTIONS if key in given}
    if "step_separator" in asked:
        of_model = {key: value for key, value in of_model.items() if key != "step_token"}
    if asked.get("max_length") == 0:
        asked["max_length"] = None
    return {**of_model, **asked}
