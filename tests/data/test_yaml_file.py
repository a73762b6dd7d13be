"""YAML files of options are read as PyYAML reads them; bombs, endless nesting and double keys are errors."""

import sys

import pytest
import yaml

from hf_rewardplug import RewardConfig
from hf_rewardplug.cli.options import run_options
from hf_rewardplug.data.yaml_file import read_yaml
from hf_rewardplug.integrations.axolotl.training import train_file
from hf_rewardplug.runs.arguments import parse_recipe

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
FAULTS = {
    BOMB: "aliases written out",
    "a: &a {x: "
    + "y" * 100
    + "}\n"
    + "".join(f"k{i}: &k{i} {{<<: *a, m: [" + "*a, " * 99 + "*a]}\n" for i in range(99)): ("aliases written out"),
    "a: " + "[" * 3000 + "]" * 3000: "levels",
    "a: " + "{a: " * 3000 + "}" * 3000: "levels",
    "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(50)): "levels",
    "a: &a [*a]": "holds itself",
    "a: &a {b: *a}": "holds itself",
    "seed: 1\nseed: 2": r"key 'seed' is there twice.*line 2",
    "datasets:\n- path: a\n  path: b": "key 'path' is there twice",
    '"seed": 1\nseed: 2': "key 'seed' is there twice",
    "true: 1\nyes: 2": "key 'True' is there twice",
    "a: !!python/object/apply:os.getcwd []": "could not determine a constructor",
    "a: 2020-99-99": "no YAML",
    "a: [": "no YAML",
    "- a": "holds list",
    "": "holds NoneType",
}
SOUND = """
base: &base {seed: 1, epochs: 2}
run:
  <<: *base
  seed: 3
list: [1, 2e-5, no, ~, "text", [a, {b: c}]]
template: |
  {% for m in messages %}
  {{ m }}{% endfor %}
"""


@pytest.mark.parametrize("text", FAULTS)
def test_what_is_no_file_of_options_ends_as_a_value_error(text, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    for read in (lambda: read_yaml(path, such_as="a: 1"), lambda: train_file(path), lambda: run_options(path)):
        with pytest.raises(ValueError, match=FAULTS[text]):
            read()


@pytest.mark.parametrize("text", [BOMB, "seed: 1\nseed: 2"])
def test_a_recipe_s_file_too(text, tmp_path, monkeypatch):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", str(path)])
    with pytest.raises(ValueError, match=FAULTS[text]):
        parse_recipe(RewardConfig, {}, demo="gemma", deepspeed=tmp_path / "zero2.json")


def test_what_pyyaml_reads_is_read_as_it_reads_it(tmp_path):
    (tmp_path / "run.yaml").write_text(SOUND)
    assert read_yaml(tmp_path / "run.yaml", such_as="a: 1") == yaml.safe_load(SOUND)
