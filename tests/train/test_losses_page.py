"""docs/losses.md names every loss, beside the columns and options that the losses declare, and no other."""

import re
from pathlib import Path

import pytest

from hf_rewardplug.train.losses import LOSSES, LOSSES_OF_OPTION, OPTIONS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "losses.md"
TABLE = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if "`" in line]
TABLE = [row for row in TABLE if len(row) == 4 and row[2] != "`loss_type`"]


def named(cell: str) -> set[str]:
    """The losses that stand in a cell."""
    return {word for word in re.findall(r"`(\w+)`", cell) if word in LOSSES}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_has_a_line(loss):
    assert any(loss.name in named(row[2]) for row in TABLE)


@pytest.mark.parametrize("column", sorted({column for loss in LOSSES.values() for column in loss.columns}))
def test_a_column_stands_beside_losses_that_take_it(column):
    lines = [row for row in TABLE if re.search(rf"`{column}[`:]", row[0])]
    assert lines
    for row in lines:
        assert named(row[2]) <= {loss.name for loss in LOSSES.values() if column in loss.columns}


@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_stands_beside_losses_that_read_it(option):
    for row in TABLE:
        if f"--{option} " in row[3] or f"`{option}`" in row[2]:
            losses = {*re.findall(r"--loss_type (\w+)", row[3])} or named(row[2])
            assert losses and losses <= {*LOSSES_OF_OPTION[option]}
