"""What is said of a name where no model is: the folder first, then the hub's words, and what stands there instead."""

import pytest

from hf_rewardplug import RewardScorer
from hf_rewardplug.model.kinds import ORM
from hf_rewardplug.model.saved import SavedModel


@pytest.fixture(params=["scorer", "trainer"])
def load(request):
    return {
        "scorer": RewardScorer.from_pretrained,
        "trainer": lambda name: SavedModel(name, {}).arguments(ORM, 1),
    }[request.param]


@pytest.mark.parametrize("name", ["/nowhere/at/all", "runs/my/model", "runs/no_such_model", "./runs"])
def test_a_missing_folder_is_told_before_the_hub_s_words(name, load, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^There is no folder '{name}' here \(in '.*'\). Nor does the hub give"):
        load(name)


def test_a_run_s_folder_names_its_newest_checkpoint(load, tmp_path):
    for step in (2, 10, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    with pytest.raises(ValueError, match=r"no model of its own. The newest is '.*checkpoint-10'; give it"):
        load(str(tmp_path))


def test_a_folder_of_other_things_says_what_it_lacks(load, tmp_path):
    with pytest.raises(ValueError, match=r"has neither a config.json nor an adapter_config.json; expected a model"):
        load(str(tmp_path))
