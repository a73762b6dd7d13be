"""Files of scores: in order, resumed to the same bytes, a window in memory, bad lines told by their numbers."""

import json

import pytest
from rows import conversations, solutions, text_pairs
from tiny_checkpoints import checkpoint

from hf_rewardplug import RewardScorer
from hf_rewardplug.checks import RowError
from hf_rewardplug.score.files import Progress, find_progress, rejects_of, score_file
from hf_rewardplug.score.lines import Requests, read_lines, scored_lines

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "4"}


@pytest.fixture(scope="module")
def orm(assets) -> RewardScorer:
    return RewardScorer.from_pretrained(checkpoint("orm", str(assets / "stories260K")))


@pytest.fixture(scope="module")
def prm(assets) -> RewardScorer:
    return RewardScorer.from_pretrained(checkpoint("prm", str(assets / "stories260K")), aggregate="prod")


class Lengths:
    """A scorer whose score is the length of the completion, and that refuses a completion with a question mark."""

    aggregate, model = "min", None

    def __init__(self):
        self.calls = []

    def score_rows(self, rows, window=1024):
        rows = list(rows)
        self.calls.append(len(rows))
        if bad := [index for index, row in enumerate(rows) if "?" in row["completion"]]:
            raise RowError("asks", "completion", number=bad[0])
        yield from (float(len(row["completion"])) for row in rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def completions(count: int) -> list[dict]:
    return [{"id": index, "prompt": "p", "completion": "x" * (index + 1)} for index in range(count)]


def test_every_kind_of_row_keeps_its_columns_and_gets_its_scores(orm, tmp_path):
    pair, chat = text_pairs(1)[0], conversations(1)[0]
    hh = {
        "chosen": "\n\nHuman: the cat\n\nAssistant: sat",
        "rejected": "\n\nHuman: the cat\n\nAssistant: ran",
    }
    rows = [
        {"id": 1, "prompt": pair["prompt"], "completion": pair["chosen"]},
        {"id": 2, "prompt": pair["prompt"], "completions": [pair["chosen"], pair["rejected"]]},
        {"id": 3, **pair},
        {"id": 4, **chat},
    ]
    expected = orm.score(pair["prompt"], [pair["chosen"], pair["rejected"]])
    outcome = score_file(orm, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert (outcome.before, outcome.scored, outcome.rejected) == (0, 4, 0)
    assert [{key: row[key] for key in row if not key.startswith("score")} for row in found] == rows
    assert found[0]["score"] == pytest.approx(expected[0], abs=1e-5)
    assert found[1]["scores"] == found[2]["scores"] == pytest.approx(expected, abs=1e-5)
    assert found[3]["scores"] == pytest.approx(orm.score(chat["prompt"], [chat["chosen"], chat["rejected"]]), abs=1e-5)
    score_file(orm, write(tmp_path / "hh.jsonl", [hh]), tmp_path / "hh_out.jsonl")  # as training reads it
    prompt = [{"role": "user", "content": "the cat"}]
    assert read(tmp_path / "hh_out.jsonl")[0]["scores"] == pytest.approx(orm.score(prompt, ["sat", "ran"]), abs=1e-5)


def test_steps_get_a_score_each_and_one_together(prm, tmp_path):
    rows = solutions(3)
    given = [
        {"prompt": rows[0]["prompt"], "steps": rows[0]["completions"]},
        rows[1],  # as it trains
        {"prompt": rows[2]["prompt"], "steps": [rows[2]["completions"], rows[2]["completions"][:1]]},
    ]
    score_file(prm, write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl")
    expected = prm.score_steps([row["prompt"] for row in rows], [row["completions"] for row in rows])
    found = read(tmp_path / "out.jsonl")
    for row, scores in zip(found[:2], expected, strict=False):
        product = 1.0
        for score in scores:
            product *= score
        assert row["scores"] == pytest.approx(scores, abs=1e-5) and row["score"] == pytest.approx(product, abs=1e-5)
    assert found[2]["scores"][0] == pytest.approx(expected[2], abs=1e-5) and len(found[2]["score"]) == 2


def test_null_columns_are_passed_over_and_tools_are_rendered():
    request, tools = Requests(), [{"type": "function", "function": {"name": "f"}}]
    nulls = {"completion": None, "labels": None, "tools": None}
    assert request({**nulls, "prompt": None, "completions": ["a"]}) == {"prompt": "", "completions": ["a"]}
    chat = {"prompt": [USER], "completion": [ANSWER], "tools": tools}
    assert request(chat) == {"prompt": [USER], "tools": tools, "completion": [ANSWER]}
    pair = request({"prompt": [USER], "chosen": [ANSWER], "rejected": [USER], "tools": json.dumps(tools)})
    assert pair == {"prompt": [USER], "tools": tools, "completions": [[ANSWER], [USER]]}


@pytest.mark.parametrize("row", [{"problem": "p", "steps": ["s"], "label": 0}, {"question": "q", "completion": "c"}])
def test_a_prompt_of_another_name_is_not_left_out_in_silence(row):
    with pytest.raises(ValueError, match=r"found \[.*expected 'prompt' .*Rename"):
        Requests()(row)


@pytest.mark.parametrize("cut", [1, 300, 900, 1500, 10**6])
def test_a_run_cut_off_anywhere_and_resumed_gives_the_same_bytes(orm, tmp_path, cut):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in text_pairs(22)]
    source = write(tmp_path / "in.jsonl", rows)
    score_file(orm, source, tmp_path / "whole.jsonl", window=4)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "out.jsonl").write_bytes(whole[:cut])
    outcome = score_file(orm, source, tmp_path / "out.jsonl", window=4)
    assert (tmp_path / "out.jsonl").read_bytes() == whole
    assert outcome.before == (22 if cut > len(whole) else whole[:cut].count(b"\n") // 4 * 4)
    assert outcome.before + outcome.scored == 22


def test_a_run_with_bad_lines_resumed_gives_the_same_bytes_and_rejects(tmp_path):
    rows = completions(30)
    for index in (3, 7, 8, 21, 29):
        rows[index]["completion"] += "?"
    source = write(tmp_path / "in.jsonl", rows)
    score_file(Lengths(), source, tmp_path / "whole.jsonl", window=4, skip_bad=True)
    whole, rejects = ((path).read_bytes() for path in (tmp_path / "whole.jsonl", rejects_of(tmp_path / "whole.jsonl")))
    assert [json.loads(line)["line"] for line in rejects.splitlines()] == [4, 8, 9, 22, 30]
    assert [row["id"] for row in read(tmp_path / "whole.jsonl")] == [i for i in range(30) if i not in (3, 7, 8, 21, 29)]
    for cut in range(0, len(whole) + 1, 37):
        (tmp_path / "out.jsonl").write_bytes(whole[:cut])
        rejects_of(tmp_path / "out.jsonl").write_bytes(rejects)  # they are written first, and may be ahead
        score_file(Lengths(), source, tmp_path / "out.jsonl", window=4, skip_bad=True)
        assert (tmp_path / "out.jsonl").read_bytes() == whole
        assert rejects_of(tmp_path / "out.jsonl").read_bytes() == rejects


def test_windows_are_the_same_after_a_resume(tmp_path):
    rows = completions(11)
    rows[3]["completion"] += "?"
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    score_file(Lengths(), source, out, window=4, skip_bad=True)
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:5]))  # lines 1 to 3, 5 and 6
    progress = find_progress(source, out, window=4)
    assert (progress.lines, progress.last, [record["line"] for record in progress.rejected]) == (3, 4, [4])


def test_the_first_bad_line_stops_the_run_behind_the_rows_before_it(tmp_path):
    rows = completions(10)
    rows[6]["completion"] = "what?"
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"in.jsonl', line 7: column 'completion': asks. '.*out.jsonl' has the 6 rows"):
        score_file(Lengths(), source, out)
    assert [row["score"] for row in read(out)] == [1, 2, 3, 4, 5, 6]
    assert not rejects_of(out).exists()
    rows[6]["completion"] = "that."
    score_file(Lengths(), write(source, rows), out)
    assert [row["score"] for row in read(out)] == [1, 2, 3, 4, 5, 6, 5, 8, 9, 10]


def test_bad_lines_of_all_kinds_by_number(orm, tmp_path):
    lines = [
        b'{"prompt": "the cat", "completion": "sat"}',
        b'{"prompt": ',
        b"",
        b'{"prompt": "the cat"}',
        b'"text"',
        b'{"prompt": "the cat", "completion": "\xff"}',
        b'{"prompt": "the cat", "completions": ["sat", 3]}',
        b'{"prompt": "the cat", "completion": "sat", "score": 1}',
        b'{"prompt": "the cat", "steps": ["sat"]}',
        b'{"prompt": "the cat", "completion": "sat", "tools": [{"name": "f"}]}',
        b'{"chosen": "sat", "rejected": null}',
        b'{"prompt": "", "completion": "ran"}',
        b'{"question": "the cat", "completion": "sat"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    outcome = score_file(orm, tmp_path / "in.jsonl", tmp_path / "out.jsonl", skip_bad=True)
    assert (outcome.scored, outcome.rejected) == (3, 9)
    errors = {record["line"]: record["error"] for record in read(rejects_of(tmp_path / "out.jsonl"))}
    expected = {
        2: "no JSON",
        4: "expected 'prompt' (",
        5: "found str",
        6: "no UTF-8",
        7: "completions[1]: column 'completion'",
        8: "column 'score': is there already",
        9: "outcome reward model",
        11: "column 'rejected'",
        13: "expected 'prompt' (\"\" if there is none) and one of",
    }
    assert list(errors) == list(expected)
    for number, message in expected.items():
        assert message in errors[number], (number, errors[number])


def test_a_few_bad_lines_cost_a_few_calls():
    scorer = Lengths()
    rows = completions(256)
    rows[100]["completion"] = "?"
    lines = read_lines((json.dumps(row).encode() for row in rows), Requests())
    found = [line.error for line, _ in scored_lines(scorer, lines, window=256)]
    assert [index for index, error in enumerate(found) if error] == [100]
    assert len(scorer.calls) <= 17  # two halves each time: 1 + 2 * log2(256)


def test_the_reader_holds_a_window():
    read_so_far = 0

    def source():
        nonlocal read_so_far
        for row in completions(100):
            read_so_far += 1
            yield json.dumps(row).encode()

    for number, _ in enumerate(scored_lines(Lengths(), read_lines(source(), Requests()), window=8)):
        assert read_so_far <= (number // 8 + 1) * 8


def test_other_rows_and_other_models_are_refused(orm, tmp_path):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in text_pairs(6)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    score_file(orm, source, out)
    before = out.read_bytes()
    other = write(tmp_path / "other.jsonl", rows[1:])
    with pytest.raises(ValueError, match=r"out.jsonl', line 1: it is not line 1 of .*--overwrite"):
        score_file(orm, other, out)
    with pytest.raises(ValueError, match=r"line 4: '.*fewer.jsonl' has no line for it"):
        score_file(orm, write(tmp_path / "fewer.jsonl", rows[:3]), out)
    with pytest.raises(ValueError, match=r"has the score .* but this model gives"):
        score_file(Lengths(), source, out)
    assert out.read_bytes() == before
    assert score_file(orm, other, out, overwrite=True).scored == 5
    assert len(read(out)) == 5


def test_another_aggregate_is_refused(prm, tmp_path):
    given = [{"prompt": row["prompt"], "steps": row["completions"]} for row in solutions(3)]
    given.append({"prompt": given[0]["prompt"], "steps": [given[0]["steps"], given[1]["steps"]]})
    source, out = write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl"
    score_file(prm, source, out)
    mean = RewardScorer(prm.model, prm.tokenizer, aggregate="mean")
    with pytest.raises(ValueError, match=r"line 1, has the score .* other options made it"):
        score_file(mean, source, out)
    assert score_file(prm, source, out).before == 4


def test_paths_that_cannot_be(tmp_path):
    source = write(tmp_path / "in.jsonl", completions(1))
    with pytest.raises(ValueError, match=r"nowhere.jsonl' is no file"):
        find_progress(tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="the input itself"):
        find_progress(source, source)
    with pytest.raises(ValueError, match="is no folder"):
        find_progress(source, tmp_path / "missing" / "out.jsonl")
    with pytest.raises(ValueError, match="is a folder"):
        find_progress(source, tmp_path)
    assert find_progress(source, tmp_path / "out.jsonl") == Progress()


def test_the_column_can_be_called_otherwise(tmp_path):
    rows = [{**row, "score": 7} for row in completions(3)]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    score_file(Lengths(), source, out, column="reward")
    assert [(row["score"], row["reward"]) for row in read(out)] == [(7, 1.0), (7, 2.0), (7, 3.0)]
    assert score_file(Lengths(), source, out, column="reward").before == 3
