"""What the package exports, and how little importing it costs."""

import subprocess
import sys

import hf_rewardplug


def test_all_is_sorted_and_everything_in_it_exists():
    assert hf_rewardplug.__all__ == sorted(hf_rewardplug.__all__) == dir(hf_rewardplug)
    for name in hf_rewardplug.__all__:
        assert getattr(hf_rewardplug, name).__name__ == name
    assert set(hf_rewardplug._WHERE) == set(hf_rewardplug.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(hf_rewardplug, "DPOTrainer")


def test_importing_the_package_imports_no_heavy_library():
    code = "import sys, hf_rewardplug; print(sorted({'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
