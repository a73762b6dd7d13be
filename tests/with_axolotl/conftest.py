"""Tests against the real axolotl: `make test-axolotl` makes a venv with its pins. Without axolotl none is collected."""

import importlib.util
import os

os.environ["AXOLOTL_DO_NOT_TRACK"] = "1"
collect_ignore_glob = [] if importlib.util.find_spec("axolotl") else ["test_*.py"]
