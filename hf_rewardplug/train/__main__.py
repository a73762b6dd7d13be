"""`accelerate launch -m hf_rewardplug.train config.yaml`: what `rewardplug train` does, under any launcher.

In: the path of an axolotl config. Out: a trained model; a message and exit status 1 where the config cannot be used.
The one module of this room that knows `integrations`.
"""

import os
import sys

from ..integrations.axolotl.training import train_file


def main(arguments: list[str]) -> int | str:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return "usage: python -m hf_rewardplug.train config.yaml   (rewardplug train --help tells of the file)"
    try:
        train_file(arguments[0])
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get("REWARDPLUG_DEBUG"):
            raise
        return f"error: {error}"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
