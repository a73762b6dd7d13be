"""Files of scores under faults: two runs, somebody else's files, mended rows, rows too long, broken JSON, pipes."""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rows import text_pairs
from test_files import Lengths, completions, read, write
from tiny_checkpoints import checkpoint
from transformers import AutoTokenizer

from hf_rewardplug import RewardScorer
from hf_rewardplug.data.encoding import Encoder
from hf_rewardplug.data.formats import check_rows
from hf_rewardplug.data.formats.file_rows import BrokenFile
from hf_rewardplug.score.files import rejects_of, score_file
from hf_rewardplug.score.forward import ScoredRows
from hf_rewardplug.score.sidecars import opened


@pytest.fixture(scope="module")
def orm(assets) -> RewardScorer:
    return RewardScorer.from_pretrained(checkpoint("orm", str(assets / "stories260K")))


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in.jsonl", completions(10))


# ---- whose file it is ----------------------------------------------------------------------------------------------


def test_a_second_run_into_one_file_is_refused(source, tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / "link.jsonl").symlink_to(out)
    with opened(out):
        for name in (out, tmp_path / "link.jsonl"):
            with pytest.raises(ValueError, match=r"another run writes to '.*' now"):
                score_file(Lengths(), source, name, overwrite=True)
    assert score_file(Lengths(), source, out).scored == 10


def test_a_killed_run_leaves_no_lock(source, tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from hf_rewardplug.score.sidecars import opened
with opened(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    out = tmp_path / "out.jsonl"
    assert subprocess.run([sys.executable, "-c", code, str(out)]).returncode == -9
    assert score_file(Lengths(), source, out).scored == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.options"]


def test_a_run_that_never_began_leaves_no_file(source, tmp_path):
    def fails():
        raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        score_file(fails, source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


FOREIGN = [b'{"my": "important file"}', b"notes", b"{", b'{"id": 0, "prompt": "p", "completion": "x"}', b"\n", b"\x00"]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_one_line_that_is_somebody_elses_stays(content, source, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_bytes(content)
    if content == b"{":  # every row begins so
        assert score_file(Lengths(), source, out).scored == 10
        return
    with pytest.raises(ValueError, match=r"out.jsonl', line 1: .*--overwrite"):
        score_file(Lengths(), source, out)
    assert out.read_bytes() == content


@pytest.mark.parametrize("content", ["my notes", "my notes\n", '{"a": 1}\n', "[1]\n", '{"row": 3}\n'])
def test_rejects_that_are_somebody_elses_stay(content, source, tmp_path):
    out = tmp_path / "out.jsonl"
    rejects_of(out).write_text(content)
    for _ in range(2):  # a new run, and one that finds all rows there
        score_file(Lengths(), source, out)
        assert len(read(out)) == 10 and rejects_of(out).read_text() == content
    with pytest.raises(ValueError, match=r"out.jsonl.rejects' is not a file of this command"):
        score_file(Lengths(), source, out, skip_bad=True)
    assert rejects_of(out).read_text() == content


@pytest.mark.parametrize("skip_bad", [True, False])
@pytest.mark.parametrize("window", [1, 4, 1024])
def test_a_mended_reject_is_scored(skip_bad, window, tmp_path):
    rows, out = completions(10), tmp_path / "out.jsonl"
    bad = [{**row, "completion": "x?"} if index in (3, 9) else row for index, row in enumerate(rows)]
    source = write(tmp_path / "in.jsonl", bad)
    assert score_file(Lengths(), source, out, skip_bad=True, window=window).rejected == 2
    assert score_file(Lengths(), source, out, skip_bad=True, window=window).scored == 0
    write(source, rows)
    score_file(Lengths(), source, out, skip_bad=skip_bad, window=window)
    assert read(out) == [{**row, "score": index + 1.0} for index, row in enumerate(rows)]
    assert not rejects_of(out).exists()


def test_a_row_that_was_written_without_a_score_and_mended_is_scored(tmp_path):
    rows, out = completions(6), tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", [*rows[:3], {**rows[3], "completion": "?"}, *rows[4:]])
    score_file(Lengths(), source, out, on_bad_row="drop", window=2)
    assert read(out)[3]["score"] is None
    outcome = score_file(Lengths(), write(source, rows), out, on_bad_row="drop", window=2)
    assert (outcome.before, outcome.scored) == (2, 4)
    assert [row["score"] for row in read(out)] == [1, 2, 3, 4, 5, 6]


def options(**changes):
    """A scorer of steps whose values are the same whatever its options."""
    scorer = Lengths()
    scorer.kind, scorer.aggregate, scorer.separator = "prm", "min", "\n"
    scorer.model, scorer.encoder = SimpleNamespace(dtype=torch.float32), SimpleNamespace(step_separator="\n")
    for name, value in changes.items():
        setattr(scorer, name, value)
    return scorer


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregate": "mean"},
        {"separator": "|"},
        {"model": SimpleNamespace(dtype=torch.bfloat16)},
        {"encoder": SimpleNamespace(step_separator="|")},
    ],
)
def test_a_run_goes_on_with_its_own_options_alone(changes, source, tmp_path):
    out = tmp_path / "out.jsonl"
    score_file(options(), source, out)
    with pytest.raises(ValueError, match=r"was begun with \w+='.*--overwrite"):
        score_file(options(**changes), source, out)
    assert score_file(options(), source, out).before == 10
    assert score_file(options(**changes), source, out, overwrite=True).scored == 10
    assert score_file(options(**changes), source, out).before == 10


def test_a_run_goes_on_with_its_own_adapter_alone(source, tmp_path):
    out = tmp_path / "out.jsonl"
    score_file(Lengths(), source, out)
    with pytest.raises(ValueError, match="was begun with ignore_columns="):
        score_file(Lengths(), source, out, ignore_columns=["id"])
    (tmp_path / "new.jsonl.options").write_text("mine")
    with pytest.raises(ValueError, match=r"new.jsonl.options' is not a file of this command"):
        score_file(Lengths(), source, tmp_path / "new.jsonl")
    assert (tmp_path / "new.jsonl.options").read_text() == "mine"


# ---- rows ----------------------------------------------------------------------------------------------------------

ODD = {
    "deep": '{"prompt": "p", "completion": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "rather deep": '{"prompt": "p", "completion": "x", "more": ' + "[" * 600 + "]" * 600 + "}",
    "digits": '{"prompt": "p", "completion": "x", "more": ' + "1" * 5000 + "}",
    "twice": '{"prompt": "p", "completion": "x", "completion": "y"}',
    "surrogate": '{"prompt": "p", "completion": "\\ud800"}',
}


@pytest.mark.parametrize("name", ODD)
def test_broken_rows_are_named_by_their_line(name, orm, tmp_path):
    good = '{"prompt": "p", "completion": "x"}'
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([good, ODD[name], good]))
    with pytest.raises(ValueError, match=r"in.jsonl', line 2: "):
        score_file(orm, source, out)
    assert score_file(orm, source, out, skip_bad=True).rejected == 1
    assert [record["line"] for record in read(rejects_of(out))] == [2] and len(read(out)) == 2
    if name != "surrogate":
        source.write_text(f"[{good},\n{ODD[name]}]")
        with pytest.raises(BrokenFile, match="line 2"):
            check_rows(source.rename(tmp_path / "in.json"))


def test_what_json_does_not_have_is_not_written(tmp_path):
    lines = ['{"id": NaN, "prompt": "p", "completion": "x"}', '{"id": [1e999], "prompt": "p", "completion": "x"}']
    lines.append('{"id": "\\ud800", "prompt": "p", "completion": "x"}')
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))

    def strictly(name):
        raise AssertionError(f"{name} is no JSON")

    for before in (0, 3):
        assert score_file(Lengths(), source, out).before == before
        rows = [json.loads(line, parse_constant=strictly) for line in out.read_bytes().splitlines()]
        assert [row["id"] for row in rows] == [None, [None], "\ud800"]


def test_a_row_too_long_is_that_rows_error(orm, tmp_path):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in text_pairs(3)]
    prompt = "the cat sat on the mat " * 20
    rows[1]["prompt"] = prompt
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    def scorer(**options):
        return RewardScorer(orm.model, orm.tokenizer, max_length=50, **options)

    with pytest.raises(ValueError, match=r"line 2: \d+ tokens are more than max_length=50"):
        score_file(scorer(), source, out)
    assert score_file(scorer(), source, out, skip_bad=True, overwrite=True).rejected == 1
    outcome = score_file(scorer(overlong="drop"), source, out, overwrite=True)
    assert outcome.scored == 2 and read(out)[1]["error"] == "longer than max_length=50"
    assert outcome.report.dropped == {"longer than max_length=50": [1]}
    score_file(scorer(overlong="truncate"), source, out, overwrite=True)
    tokens = orm.encoder.completion(rows[1])
    start = [tokens[0]] if tokens[0] == orm.tokenizer.bos_token_id else []
    kept = torch.tensor([start + tokens[len(start) - 50 :]])
    with torch.no_grad():
        expected = orm.model(input_ids=kept, attention_mask=torch.ones_like(kept)).logits.item()
    assert read(out)[1]["score"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."
        ),
        MemoryError(),
    ],
)
def test_a_row_that_memory_does_not_hold_is_that_rows_error(error, orm, tmp_path, monkeypatch):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in text_pairs(6)]
    expected = orm.score([row["prompt"] for row in rows], [row["completion"] for row in rows])
    rows[2]["prompt"] = "the cat sat on the mat " * 20
    plain = ScoredRows._forward

    def forward(self, batch):
        if max(len(row["input_ids"]) for row in batch) > 100:
            raise error
        return plain(self, batch)

    monkeypatch.setattr(ScoredRows, "_forward", forward)
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"line 3: memory does not hold its \d+ tokens.*--max-length"):
        score_file(orm, source, out)
    score_file(orm, source, out, skip_bad=True, overwrite=True)
    del expected[2]
    assert [row["score"] for row in read(out)] == pytest.approx(expected, abs=1e-5)
    assert [record["line"] for record in read(rejects_of(out))] == [3]


@pytest.mark.parametrize("end", ["", "</s>", "</s> ", "</s>\n", " </s>", "</s></s>\n"])
def test_an_eos_with_white_space_behind_it_is_scored_where_trl_scores_it(end, assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "stories260K")
    end = end.replace("</s>", tokenizer.eos_token)
    ids = Encoder(tokenizer=tokenizer).completion({"prompt": "the cat ", "completion": f"sat{end}"})
    text = f"the cat sat{end}"  # trl.trainer.reward_trainer.add_eos, and its tokenization
    assert ids == tokenizer(text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token)["input_ids"]


# ---- pipes ---------------------------------------------------------------------------------------------------------


def test_standard_input_and_output(source, tmp_path, monkeypatch):
    stdin, stdout = io.TextIOWrapper(io.BytesIO(source.read_bytes())), io.TextIOWrapper(io.BytesIO())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "stdout", stdout)
    outcome = score_file(Lengths(), "-", "-")
    lines = stdout.buffer.getvalue().splitlines()
    monkeypatch.undo()
    assert outcome.scored == 10 and [json.loads(line)["score"] for line in lines] == [*range(1, 11)]
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_rejects_of_a_pipe_are_said_on_standard_error(tmp_path, capsys, monkeypatch):
    rows = completions(3)
    rows[1]["completion"] = "?"
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stdout)
    score_file(Lengths(), write(tmp_path / "in.jsonl", rows), "-", skip_bad=True)
    lines = stdout.buffer.getvalue().splitlines()
    monkeypatch.undo()
    assert [json.loads(line)["id"] for line in lines] == [0, 2]
    assert '"line": 2' in capsys.readouterr().err
