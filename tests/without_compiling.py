"""Runs a script as one of DeepSpeed's ranks, without the all-reduce whose C++ DeepSpeed would compile for a minute.

LAUNCHER without_compiling.py SCRIPT WORDS...
"""

import runpy
import sys

import deepspeed.ops

if __name__ == "__main__":
    deepspeed.ops.__compatible_ops__ = {}
    script = next(word for word in sys.argv if word.endswith(".py") and word != sys.argv[0])
    sys.argv = [script, *(word for word in sys.argv[1:] if word != script)]  # the launcher puts --local_rank first
    runpy.run_path(script, run_name="__main__")
