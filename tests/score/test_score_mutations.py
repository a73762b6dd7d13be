"""Files of rows that somebody edited, cut off or mixed up: each row has its own score or its own fault, in one line."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import bytes_like
from rows import conversations, solutions, text_pairs
from test_files import ANSWER, USER, read, write
from tiny_checkpoints import checkpoint

from hf_rewardplug import RewardScorer
from hf_rewardplug.score.files import rejects_of, score_file
from hf_rewardplug.score.lines import flat

TEXT, CHAT, STEPS = text_pairs(1)[0], conversations(1)[0], solutions(1)[0]
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
ROWS = {
    "orm": [
        {"id": 1, "prompt": TEXT["prompt"], "completion": TEXT["chosen"]},
        {"id": 2, "prompt": TEXT["prompt"], "completions": [TEXT["chosen"], TEXT["rejected"]], "tools": [TOOL]},
        {"id": 3, "prompt": CHAT["prompt"], "completion": [{**ANSWER, "tool_calls": [CALL]}, ANSWER]},
        {"id": 4, "prompt": [USER], "completions": [[ANSWER], "5"], "chat_template_kwargs": {"a": True}},
        {"id": 5, **TEXT, "margin": 1.0, "weight": 2},
        {"id": 6, **CHAT, "system": "Be brief."},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"prompt": "a", "completion": "b", "attributes": {"good": 1, "brief": None}},
    ],
    "prm": [
        {"id": 1, **STEPS},
        {"id": 2, "prompt": "the cat", "steps": ["sat", "ran"]},
        {"id": 3, "prompt": [USER], "completions": ["a", "b"], "labels": [1, 0.5]},
        {"id": 4, "prompt": "a", "completion": "b\nc"},
        {"prompt": "a", "nodes": [{"text": "b", "label": 1, "parent": -1}, {"text": "c", "label": 0, "parent": 0}]},
        {"input": "the cat ки sat ки", "label": "the cat + sat -", "task": "GSM8K"},
        {"prompt": "a", "completions": ["b", "c"], "outcome": True},
    ],
}


@pytest.fixture(scope="module")
def scorers(assets):
    return {kind: RewardScorer.from_pretrained(checkpoint(kind, str(assets / "stories260K"))) for kind in ROWS}


@pytest.fixture(scope="module")
def alone(scorers, tmp_path_factory):
    """The scores of every row that nothing was changed in, in a file of its own."""
    folder, scores = tmp_path_factory.mktemp("alone"), {}
    for kind, rows in ROWS.items():
        for row in rows:
            score_file(scorers[kind], write(folder / "in.jsonl", [row]), folder / "out.jsonl", overwrite=True)
            scores[json.dumps(row)] = columns_of(read(folder / "out.jsonl")[0])[1]
    return scores


def columns_of(row: dict) -> tuple[str, list]:
    """The row as it came, as text, and the numbers of its scores."""
    bare = {key: value for key, value in row.items() if key not in ("score", "scores")}
    return json.dumps(bare), [*flat([row.get("scores", []), row.get("score", [])])]


@st.composite
def files(draw):
    """The kind of a model, the bytes of a file and its suffix."""
    kind = draw(st.sampled_from(sorted(ROWS)))
    lines = draw(st.lists(bytes_like(ROWS[kind]), min_size=1, max_size=5))
    if draw(st.integers(0, 7)) == 0:
        return kind, b"[" + b",\n".join(lines) + b"]", ".json"
    return kind, b"\n".join(lines) + draw(st.sampled_from([b"", b"\n", b"\r\n"])), ".jsonl"


def strictly(text: str) -> dict:
    def refused(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refused)


def ends_well(scorer, content, suffix, options, folder, alone):
    """Rows with scores or reasons, the same when the command runs again; or one line."""
    for path in folder.iterdir():
        path.unlink()
    source, out = folder / f"in{suffix}", folder / "out.jsonl"
    source.write_bytes(content)
    whys = []
    try:
        outcome = score_file(scorer, source, out, window=2, **options)
        whys = [row["error"] for row in read(rejects_of(out))] if rejects_of(out).exists() else []
        rows = [strictly(line) for line in out.read_text().splitlines()] if out.exists() else []
        whys += [row.get("score_error", row.get("error")) for row in rows if row.get("score", ...) is None]
        for bare, scores in map(columns_of, rows):
            if bare in alone and None not in scores:
                assert scores == pytest.approx(alone[bare], abs=1e-5), bare
        before = out.read_bytes() if out.exists() else b""
        again = score_file(scorer, source, out, window=2, **options)
        assert (again.scored, out.read_bytes() if out.exists() else b"") == (0, before)
        assert outcome.scored + len(whys) == len(rows) + outcome.rejected
    except ValueError as error:
        whys.append(str(error))
    for why in whys:
        assert isinstance(why, str) and "\n" not in why, why
        assert not re.search(r"\b[A-Z]\w*Error\b|'\w+' object is|positional argument", why), why


OPTIONS = [{"on_bad_row": "drop"}, {"skip_bad": True}, {}]


@pytest.mark.parametrize("examples", [100, pytest.param(5000, marks=pytest.mark.matrix)])
def test_a_mutated_file_gives_scores_or_reasons(examples, scorers, alone, tmp_path):
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(file=files(), options=st.sampled_from(OPTIONS))
    def check(file, options):
        kind, content, suffix = file
        ends_well(scorers[kind], content, suffix, options, tmp_path, alone)

    check()
