"""Where the real data, tokenizers and models are: `$REWARDPLUG_ASSETS`, or `../shared/assets` beside the project."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Liger's kernels then run on the CPU; read when triton is imported
    if importlib.util.find_spec("triton"):
        import triton

        if triton.__version__.startswith("3.3."):  # torch 2.7's asks a GPU's driver already as kernels are declared
            triton.runtime.driver.set_active(SimpleNamespace(get_benchmarker=lambda: None))
os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" not in os.environ:
    # DeepSpeed compiles a part of itself as the first ranks start. Who is killed meanwhile leaves a lock in the user's
    # cache, for which every later run waits without end. So each run of the tests has a cache of its own.
    own_cache = tempfile.TemporaryDirectory(prefix="torch_extensions_")
    os.environ["TORCH_EXTENSIONS_DIR"] = own_cache.name

import gc
import json
import logging
import warnings

import pytest

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("REWARDPLUG_ASSETS", ROOT.parent / "shared" / "assets"))


def pytest_collection_finish():
    """Every `train` collects garbage, which walks all objects. Those of the imported modules stay anyway."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(autouse=True)
def loud_again():
    """A command quietens its whole process, here that of the other tests."""
    import datasets  # not at the top: the environment above is set before anything imports the hub's client
    import transformers

    loggers = [logging.getLogger(name) for name in ("bitsandbytes", "hf_rewardplug.model.head")]
    levels = [logger.level for logger in loggers]
    verbosity = transformers.utils.logging.get_verbosity()
    with warnings.catch_warnings():
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    transformers.utils.logging.set_verbosity(verbosity)
    transformers.utils.logging.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def assets() -> Path:
    """Folder of the real assets; the tests that need it are skipped where it is missing."""
    if not ASSETS.is_dir():
        pytest.skip(f"no real assets at {ASSETS}; set REWARDPLUG_ASSETS")
    return ASSETS


@pytest.fixture(scope="session")
def read_rows(assets):
    """`read_rows("pandalm/test.jsonl", 10)`: the first rows of an asset file."""

    def read(name: str, count: int | None = None) -> list[dict]:
        with open(assets / name, encoding="utf-8") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(count or 10**9), strict=False)]

    return read
