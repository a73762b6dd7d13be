"""The command line itself: the app, what its commands share, and how errors end.

In: a function a command. Out: a command whose user errors end as one line, `error: ...`, and exit status 1.
"""

import functools
from collections.abc import Callable
from typing import Annotated

import typer

from ..texts import USER_ERRORS, error_text

app = typer.Typer(
    name="rewardplug",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_OUT_OF_MEMORY = (
    "the device is out of memory. Lower max_tokens_per_batch or the batch, or take a dtype with fewer bits."
)

_debug = {"on": False}  # set by `main`


def command(summary: str) -> Callable:
    """Register a command whose user errors end as `error: ...` and exit status 1; `--debug` lets the traceback out."""

    def register(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*args, **kwargs):
            try:
                function(*args, **kwargs)
            except typer.Exit:  # a RuntimeError, too
                raise
            except Exception as error:
                full = isinstance(error, MemoryError | RuntimeError) and _out_of_memory(error)
                if isinstance(error, BrokenPipeError) or _debug["on"] or not (full or isinstance(error, USER_ERRORS)):
                    raise
                typer.echo(f"error: {_OUT_OF_MEMORY}" if full else error_text(error), err=True)
                raise typer.Exit(1) from None

        return app.command(short_help=summary)(run)

    return register


def _out_of_memory(error: Exception) -> bool:
    from ..score.forward import out_of_memory

    return out_of_memory(error)


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"rewardplug {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="REWARDPLUG_DEBUG", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Reward models: look at the data, train, score, check, evaluate, report.

    \b
    rewardplug inspect pairs.jsonl --model Qwen/Qwen2.5-0.5B     what training would see
    rewardplug train config.yaml                                 train what an axolotl config says
    rewardplug check runs/orm                                    is the checkpoint what servers take it for?
    rewardplug score runs/orm rows.jsonl -o scores.jsonl         scores of a file
    rewardplug evaluate runs/orm rewardbench                     a benchmark's figures
    rewardplug report runs/orm                                   a page about a run

    Training in Python: `from hf_rewardplug import RewardTrainer, PRMTrainer`, or the recipes.
    """
    _debug["on"] = debug
