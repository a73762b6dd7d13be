"""`accelerate launch -m hf_rewardplug.train config.yaml`: what `rewardplug train` does, under any launcher.

In: the path of an axolotl config. Out: a trained model; a message and exit status 1 where the config cannot be used.
It is the one module of this room that knows `integrations` and `runs`.
"""

import sys

from ..integrations.axolotl.training import train_file
from ..runs.recipe import in_one_line


def main(arguments: list[str]) -> int | str:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return "usage: python -m hf_rewardplug.train config.yaml   (rewardplug train --help tells of the file)"
    return in_one_line(lambda: train_file(arguments[0])) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
