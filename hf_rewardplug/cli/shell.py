"""The command line itself: the app, what its commands share, and how errors end.

In: a function a command. Out: a command whose user errors end as one line, `error: ...`, and exit status 1.

Options that several commands share are the parameters of a function. A command that has a parameter of the type
`Annotated[..., that function]` gets these options, and what the function makes of their values.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from ..exits import error_line

app = typer.Typer(
    name="rewardplug",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_debug = {"on": False}  # set by `main`


def command(summary: str) -> Callable:
    """Register a command whose user errors end as `error: ...` and exit status 1; `--debug` lets the traceback out."""

    def register(function: Callable) -> Callable:
        groups, parameters = _expanded(function)

        @functools.wraps(function)
        def run(**values):
            try:
                for name, make in groups.items():
                    values[name] = make(**{option: values.pop(option) for option in inspect.signature(make).parameters})
                function(**values)
            except typer.Exit:  # a RuntimeError, too
                raise
            except Exception as error:
                line = error_line(error)
                if line is None or isinstance(error, BrokenPipeError) or _debug["on"]:
                    raise
                typer.echo(line, err=True)
                raise typer.Exit(1) from None

        run.__signature__ = inspect.Signature(parameters)  # typer reads the options from these two
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return app.command(short_help=summary)(run)

    return register


def _expanded(function: Callable) -> tuple[dict[str, Callable], list[inspect.Parameter]]:
    """{parameter that stands for several options: the function that has them}, and all parameters, these expanded."""
    groups: dict[str, Callable] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        make = getattr(parameter.annotation, "__metadata__", (None,))[0]  # typer's own are no functions
        if inspect.isfunction(make):
            groups[parameter.name] = make
            parameters += inspect.signature(make).parameters.values()
        else:
            parameters.append(parameter)
    return groups, [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]


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
