"""The command `rewardplug`: look at data, train, score files, check checkpoints, run benchmarks, write reports.

In: a command line. Out: tables on stdout, warnings and progress on stderr, exit status 0, or 1 after one `error: ...`.
Each command is a few lines over a function that Python can call too; what is heavy is imported when a command runs.
"""

import functools
from typing import Annotated, Any

import typer

from ..texts import one_line
from . import options as opt
from .options import (
    Aggregate,
    bench_options,
    encoder_options,
    new_lines,
    row_options,
    run_options,
    scorer_options,
    template_arguments,
)
from .output import console, echo, figure_rows, print_table, quiet
from .shell import app, command

__all__ = ["app"]


@command("What training would see of a data set.")
def inspect(
    data: opt.Data = None,
    model: opt.TokenizerOf = None,
    split: opt.Split = "train",
    max_rows: opt.RowsRead = 5000,
    max_length: opt.MaxLength = None,
    overlong: opt.OverlongRows = None,
    step_separator: opt.StepSeparator = None,
    step_token: opt.StepToken = None,
    chat_template: opt.TemplateName = None,
    chat_template_kwargs: opt.TemplateArguments = None,
    config: opt.RunFile = None,
    *,
    rows: Annotated[dict, row_options],
) -> None:
    """What training would see: format, rows left out or cut and why, lengths, padding, sharing, an example.

    With --model the rows are tokenized as the trainers tokenize them. Figures of batches are of 8 random rows. In the
    example, [[...]] (or the green background) is the token that gets a score. Exit status 1 if no row can be kept.

    \b
    rewardplug inspect pairs.jsonl
    rewardplug inspect Anthropic/hh-rlhf --model Qwen/Qwen2.5-0.5B --max-length 512
    rewardplug inspect steps.jsonl --model Qwen/Qwen2.5-0.5B --step-token "<|fim_pad|>"
    """
    on_command_line = {
        "dataset_name": data,
        "model_name_or_path": model,
        **rows,
        "max_length": max_length,
        "overlong": overlong and overlong.value,
        "step_separator": new_lines(step_separator),
        "step_token": step_token,
        "chat_template": chat_template and chat_template.value,
        "chat_template_kwargs": chat_template_kwargs and template_arguments(chat_template_kwargs),
    }
    options = {} if config is None else run_options(config)
    options |= {key: value for key, value in on_command_line.items() if value is not None}
    _inspect(options, split, max_rows or None)


@command("Train what an axolotl config says.")
def train(config: opt.AxolotlFile) -> None:
    """Train the reward model of an axolotl config (`reward_model: true` or `process_reward_model: true`).

    Each key that is not taken is named with the reason; an unknown key is an error. docs/migrating.md has
    the whole table. The options of this package go into the same file. On several GPUs:

    \b
    accelerate launch -m hf_rewardplug.train config.yaml
    """
    from ..integrations.axolotl.training import train_file

    train_file(config, say=functools.partial(echo, err=True))


@command("Scores of the rows of a file.")
def score(
    model: opt.Model,
    data: opt.RowsFile,
    out: opt.ScoresFile,
    aggregate: opt.AggregateName = Aggregate.min,
    normalize: opt.Normalize = False,
    skip_bad: opt.SkipBad = False,
    overwrite: opt.Overwrite = False,
    column: opt.Column = "score",
    *,
    rows: Annotated[dict, row_options],
    scorer: Annotated[dict, scorer_options],
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
    scorer |= {"aggregate": aggregate.value, "normalize": normalize}
    say = functools.partial(echo, err=str(out) == "-")
    try:
        from ..score.files import rejects_of, score_file

        outcome = score_file(
            lambda: _scorer(model, **scorer), data, out, skip_bad=skip_bad, overwrite=overwrite, column=column, **rows
        )
    except KeyboardInterrupt:
        echo("stopped" if str(out) == "-" else f"stopped; the same command goes on with what '{out}' has", err=True)
        raise typer.Exit(130) from None
    before = f" ({outcome.before:,} were there)" if outcome.before else ""
    say(f"{out}: {outcome.scored:,} rows scored{before}")
    if outcome.report:
        say("without a score:")
        say("\n".join(str(outcome.report).splitlines()[1:]))
    if outcome.rejected:
        say(f"{rejects_of(out)}: {outcome.rejected:,} lines could not be scored")


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
    print_table(("check", "", "found"), [(finding.check, words[finding.ok], finding.found) for finding in findings])
    failed = [finding for finding in findings if finding.ok is False]
    for finding in failed:
        if finding.remedy:
            echo(f"\n{finding.check}: {finding.remedy}")
    echo(f"\n{model}: " + (f"{len(failed)} of {len(findings)} checks failed" if failed else "all checks passed"))
    if failed:
        raise typer.Exit(1)


@command("A benchmark's figures.")
def evaluate(
    model: opt.Model,
    bench: opt.Bench,
    data: opt.BenchData = None,
    split: opt.BenchSplit = None,
    max_rows: opt.MaxRows = None,
    option: opt.BenchOption = None,
    out: opt.FiguresFile = None,
    *,
    rows: Annotated[dict, row_options],
    scorer: Annotated[dict, scorer_options],
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
    options = {"data": data, "split": split, "max_rows": max_rows, **rows, **bench_options(option or [])}
    quiet()
    from ..score.benchmarks import evaluate as run_benchmark
    from ..score.sidecars import json_text

    result = run_benchmark(_scorer(model, **scorer), bench, **options)
    print_table((result.name, "", "n"), figure_rows(result.figures))
    for reason, refused in result.refused.items():
        more = ", ..." if len(refused) > 50 else ""
        echo(f"refused, {reason}: {len(refused)} ({', '.join(refused[:50])}{more})")
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
    reading = ("adapter", "column_mapping", "ignore_columns", "on_bad_row")
    inspection = inspect_rows(
        dataset,
        tokenizer,
        name=name,
        max_rows=max_rows,
        **{key: options[key] for key in reading if key in options},
        **encoder_options(encoding, options),
    )
    for line in lines(inspection, tokenizer):
        echo(one_line(line))
    if inspection.example:
        screen = console()
        echo("\nExample" + ("" if tokenizer is None else ": the first one that is kept, token by token"))
        screen.print(example_text(inspection.example, colour=screen.is_terminal and not screen.no_color))
    if not inspection.report.examples:
        raise ValueError(f"no row of '{name}' can be kept: nothing would be trained on. The reasons stand above.")


def _scorer(model: str, *, device: str | None, **options: Any):
    quiet()
    import torch

    from ..score.scorer import RewardScorer

    try:
        _ = device and torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # torch raises these for a device that it does not have
        raise ValueError(
            f"--device {device}: {str(error).splitlines()[0]}. Leave it out to take what is there."
        ) from error
    return RewardScorer.from_pretrained(model, device=device, **options)
