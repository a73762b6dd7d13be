"""The command `rewardplug`: look at data, train, score files, check checkpoints, run benchmarks, write reports.

In: a command line. Out: tables on stdout, warnings and progress on stderr, exit status 0, or 1 after one `error: ...`.
Each command is a few lines over a function that Python can call too; what is heavy is imported when a command runs.
"""

import functools
from typing import Any

import typer

from ..texts import one_line
from . import options as opt
from .options import Aggregate, bench_options, encoder_options, mapping, names, run_options, template_arguments
from .output import console, echo, figure_rows, print_table, quiet
from .shell import app, command

__all__ = ["app"]


@command("What training would see of a data set.")
def inspect(
    data: opt.Data = None,
    model: opt.TokenizerOf = None,
    adapter: opt.Adapter = None,
    column_mapping: opt.ColumnMapping = None,
    ignore_columns: opt.IgnoreColumns = None,
    on_bad_row: opt.OnBadRow = None,
    split: opt.Split = "train",
    max_rows: opt.RowsRead = 5000,
    max_length: opt.MaxLength = None,
    overlong: opt.OverlongRows = None,
    step_separator: opt.StepSeparator = None,
    step_token: opt.StepToken = None,
    chat_template: opt.TemplateName = None,
    chat_template_kwargs: opt.TemplateArguments = None,
    config: opt.RunFile = None,
) -> None:
    """What training would see: format, rows left out or cut and why, lengths, padding, sharing, an example.

    With --model the rows are tokenized as the trainers tokenize them. Figures of batches are of 8 random rows. In the
    example, [[...]] (or the green background) is the token that gets a score. Exit status 1 if no row can be kept.

    \b
    rewardplug inspect pairs.jsonl
    rewardplug inspect Anthropic/hh-rlhf --model Qwen/Qwen2.5-0.5B --max-length 512
    rewardplug inspect steps.jsonl --model Qwen/Qwen2.5-0.5B --step-token "<|fim_pad|>"
    """
    given = {
        "dataset_name": data,
        "model_name_or_path": model,
        "adapter": adapter,
        "column_mapping": column_mapping and mapping(column_mapping),
        "ignore_columns": names(ignore_columns),
        "on_bad_row": on_bad_row and on_bad_row.value,
        "max_length": max_length,
        "overlong": overlong and overlong.value,
        "step_separator": step_separator and step_separator.replace("\\n", "\n"),
        "step_token": step_token,
        "chat_template": chat_template and chat_template.value,
        "chat_template_kwargs": chat_template_kwargs and template_arguments(chat_template_kwargs),
    }
    given = {key: value for key, value in given.items() if value is not None}
    options = {**({} if config is None else run_options(config)), **given}
    _inspect(options, split, max_rows or None)


@command("Train what an axolotl config says.")
def train(config: opt.AxolotlFile) -> None:
    """Train the reward model of an axolotl config (`reward_model: true` or `process_reward_model: true`).

    Keys that are not taken are told one by one, with the reason; an unknown key is an error. docs/migrating.md has
    the whole table. The options of this package go into the same file. On several GPUs:

    \b
    accelerate launch -m hf_rewardplug.train config.yaml
    """
    from ..integrations.axolotl.training import train_file

    train_file(config, tell=functools.partial(echo, err=True))


@command("Scores of the rows of a file.")
def score(
    model: opt.Model,
    data: opt.RowsFile,
    out: opt.ScoresFile,
    adapter: opt.Adapter = None,
    column_mapping: opt.ColumnMapping = None,
    ignore_columns: opt.IgnoreColumns = None,
    aggregate: opt.AggregateName = Aggregate.min,
    normalize: opt.Normalize = False,
    on_bad_row: opt.OnBadRow = None,
    skip_bad: opt.SkipBad = False,
    overwrite: opt.Overwrite = False,
    column: opt.Column = "score",
    step_separator: opt.StepSeparator = None,
    good_token: opt.GoodToken = None,
    bad_token: opt.BadToken = None,
    as_text: opt.AsText = False,
    chat_template_kwargs: opt.TemplateArguments = None,
    max_length: opt.ScoredLength = None,
    overlong: opt.OverlongScored = opt.Overlong.error,
    max_tokens_per_batch: opt.TokensPerBatch = 16384,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
) -> None:
    """Score the rows of a file; OUT has the same rows, in order, with "score" or "scores" behind their columns.

    \b
    {"prompt", "completion"}              "score"    one number (of a PRM: its steps', aggregated)
    {"prompt", "completions": [...]}      "scores"   one each
    pairs, ranked lists of any format     "scores"   of the chosen, of the rejected one; one each
    steps of any format                   "scores"   of each step, and "score", aggregated (PRM)

    Prompts and completions are text or lists of messages. A run that was stopped goes on where it stopped, with the
    same command; memory does not grow with the file. A row that cannot be scored stops it, or gets "score": null and
    "error" (--on-bad-row drop).
    """
    how = {"adapter": adapter, "column_mapping": column_mapping and mapping(column_mapping)}
    how |= {"ignore_columns": names(ignore_columns), "on_bad_row": on_bad_row.value if on_bad_row else "error"}
    steps = {"step_separator": step_separator, "good_token": good_token, "bad_token": bad_token}
    steps |= {"aggregate": aggregate.value, "normalize": normalize, "as_text": as_text}
    limits = {"max_length": max_length, "overlong": overlong, "max_tokens_per_batch": max_tokens_per_batch}
    limits |= {"chat_template_kwargs": chat_template_kwargs, "device": device, "dtype": dtype}
    files = {"skip_bad": skip_bad, "overwrite": overwrite, "column": column}
    tell = functools.partial(echo, err=str(out) == "-")
    try:
        from ..score.files import rejects_of, score_file

        found = score_file(lambda: _scorer(model, **limits, **steps), data, out, **files, **how)
    except KeyboardInterrupt:
        echo("stopped" if str(out) == "-" else f"stopped; the same command goes on with what '{out}' has", err=True)
        raise typer.Exit(130) from None
    before = f" ({found.before:,} were there)" if found.before else ""
    tell(f"{out}: {found.scored:,} rows scored{before}")
    if found.report:
        tell("without a score:")
        tell("\n".join(str(found.report).splitlines()[1:]))
    if found.rejected:
        tell(f"{rejects_of(out)}: {found.rejected:,} lines could not be scored")


@command("Do others read this checkpoint right?")
def check(model: opt.Model, data: opt.CheckRows = None, dtype: opt.CheckDtype = None) -> None:
    """Is a checkpoint what others take it for? Its files, and the scores that plain transformers gives.

    Loads it as AutoModelForSequenceClassification, ...TokenClassification or ...CausalLM (PEFT over the base model for
    an adapter) and compares with the scorer of this package. Exit status 1 if a check fails.
    """
    quiet(reports=False)
    from ..score.check import check_model, rows_of_file

    findings = check_model(model, rows=None if data is None else rows_of_file(data), dtype=dtype and dtype.value)
    words = {True: "ok", False: "NOT OK", None: "-"}
    print_table(("check", "", "found"), [(one.check, words[one.ok], one.found) for one in findings])
    failed = [one for one in findings if one.ok is False]
    for one in failed:
        if one.remedy:
            echo(f"\n{one.check}: {one.remedy}")
    echo(f"\n{model}: " + (f"{len(failed)} of {len(findings)} checks failed" if failed else "all checks passed"))
    if failed:
        raise typer.Exit(1)


@command("A benchmark's figures.")
def evaluate(
    model: opt.Model,
    bench: opt.Bench,
    data: opt.BenchData = None,
    split: opt.BenchSplit = None,
    adapter: opt.Adapter = None,
    column_mapping: opt.ColumnMapping = None,
    ignore_columns: opt.IgnoreColumns = None,
    on_bad_row: opt.OnBadRow = None,
    max_rows: opt.MaxRows = None,
    option: opt.BenchOption = None,
    out: opt.FiguresFile = None,
    step_separator: opt.StepSeparator = None,
    good_token: opt.GoodToken = None,
    bad_token: opt.BadToken = None,
    as_text: opt.AsText = False,
    chat_template_kwargs: opt.TemplateArguments = None,
    max_length: opt.ScoredLength = None,
    overlong: opt.OverlongScored = opt.Overlong.error,
    max_tokens_per_batch: opt.TokensPerBatch = 16384,
    dtype: opt.Dtype = None,
    device: opt.Device = None,
) -> None:
    """Run a benchmark and print its figures.

    \b
    preference      any pairs: accuracy        steps               any steps: accuracy (PRM)
    rewardbench     rewardbench2   rm_bench    process_bench       the first wrong step (PRM)
    judge_bench     rmb                        prm_bench           wrong steps in nine classes (PRM)
    best_of_n       of samples (PRM too)       big_bench_mistake   mr_ben   (PRM)

    \b
    rewardplug evaluate runs/orm held_out.jsonl
    rewardplug evaluate runs/orm rewardbench --data rewardbench.parquet -o figures.json
    rewardplug evaluate runs/prm process_bench --option threshold=tune

    Math-Shepherd's own model: --step-separator ки --good-token + --bad-token -
    """
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"'{out.parent}' is no folder, so '{out}' cannot be written.")
    columns, options = column_mapping and mapping(column_mapping), bench_options(option or [])
    quiet()
    from ..score.benchmarks import evaluate as run_benchmark
    from ..score.sidecars import json_text

    steps = {"step_separator": step_separator, "good_token": good_token, "bad_token": bad_token, "as_text": as_text}
    limits = {"max_length": max_length, "overlong": overlong, "max_tokens_per_batch": max_tokens_per_batch}
    limits |= {"chat_template_kwargs": chat_template_kwargs, "device": device, "dtype": dtype}
    scorer = _scorer(model, **limits, **steps)
    given = {"data": data, "split": split, "max_rows": max_rows, "column_mapping": columns}
    given |= {"adapter": adapter, "ignore_columns": names(ignore_columns)}
    given |= {"on_bad_row": on_bad_row.value if on_bad_row else "error"}
    result = run_benchmark(scorer, bench, **{**given, **options})
    print_table((result.name, "", "n"), figure_rows(result.figures))
    for reason, rows in result.refused.items():
        echo(f"refused, {reason}: {len(rows)} ({', '.join(rows[:50])}{', ...' if len(rows) > 50 else ''})")
    if out is not None:
        content = {"model": model, "name": result.name, "figures": result.figures, "items": result.items}
        content |= {"refused": result.refused} if result.refused else {}
        out.write_text(json_text(content, indent=1, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")
        echo(f"\n{out}: the figures and {len(result.items):,} examples")


@command("One page about a run.")
def report(run: opt.RunFolder, out: opt.Page = None) -> None:
    """Write one page about a run: its figures, curves and examples."""
    quiet()
    from ..score.report import write_report

    echo(write_report(run, output=out))


def _inspect(options: dict[str, Any], split: str, max_rows: int | None) -> None:
    name = options.get("dataset_name")
    if not name and options.get("datasets"):
        raise ValueError(
            "the file has several data sets. Inspect them one by one: rewardplug inspect PATH --adapter ..."
        )
    if not name:
        raise ValueError("DATA is missing: give a file, a folder or a hub id (or --config RUN with `dataset_name`).")
    quiet()
    from ..data.files import load_split
    from ..inspection import inspect_rows, load_tokenizer
    from .wording import example_text, lines

    dataset = load_split(name, split, config=options.get("dataset_config"))
    tokenizer, encoding = None, {}
    if options.get("model_name_or_path"):
        tokenizer, encoding = load_tokenizer(options["model_name_or_path"], options.get("chat_template"))
    found = inspect_rows(
        dataset,
        tokenizer,
        name=name,
        adapter=options.get("adapter"),
        column_mapping=options.get("column_mapping"),
        ignore_columns=options.get("ignore_columns"),
        on_bad_row=options.get("on_bad_row", "error"),
        max_rows=max_rows,
        **encoder_options(encoding, options),
    )
    for line in lines(found, tokenizer):
        echo(one_line(line))
    if found.example:
        screen = console()
        echo("\nExample" + ("" if tokenizer is None else ": the first one that is kept, token by token"))
        screen.print(example_text(found.example, colour=screen.is_terminal and not screen.no_color))
    if not found.report.examples:
        raise ValueError(f"no row of '{name}' can be kept: nothing would be trained on. The reasons stand above.")


def _scorer(
    model: str, *, device: str | None, dtype: opt.DtypeName | None, chat_template_kwargs: str | None, **options: Any
):
    options["overlong"] = options["overlong"].value
    options["chat_template_kwargs"] = chat_template_kwargs and template_arguments(chat_template_kwargs)
    quiet()
    import torch

    from ..score.scorer import RewardScorer

    try:
        _ = device and torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch's, for a device that is not there or not one
        raise ValueError(
            f"--device {device}: {str(error).splitlines()[0]}. Leave it out to take what is there."
        ) from error
    kwargs = {} if dtype is None else {"dtype": dtype.value}
    if options.get("step_separator") is not None:
        options["step_separator"] = options["step_separator"].replace("\\n", "\n")
    return RewardScorer.from_pretrained(model, device=device, **options, **kwargs)
