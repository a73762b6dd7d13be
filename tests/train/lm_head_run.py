"""`launched_run.py` with a causal LM whose label tokens rate the steps, as the kind "lm"."""

import functools
import sys

import launched_run

import hf_rewardplug as rp

launched_run.TRAINERS["lm"] = (
    rp.PRMTrainer,
    functools.partial(rp.PRMConfig, good_token="+", bad_token="-"),
    launched_run.solutions,
)


def main(file: str) -> None:
    launched_run.main(file)


if __name__ == "__main__":
    main(sys.argv[-1])
