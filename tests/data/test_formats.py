"""Files of every format, gzipped and in folders, against Python's own readers; broken ones name their line."""

import csv
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from hf_rewardplug.data.files import load_split
from hf_rewardplug.data.formats import count_rows, line_of, read_file
from hf_rewardplug.data.formats.file_rows import bare_name, file_format

ROWS = [
    {"prompt": "2+2?", "chosen": "4", "rejected": 'five, or "5"'},
    {"prompt": "Two\nlines, ½", "chosen": " a ", "rejected": "007"},
    {"prompt": "When?", "chosen": "2024-01-31", "rejected": "NA"},
]
TEXTS = ("json", "pretty.json", "jsonl", "lines.json", "csv")


def write(path: Path, rows=ROWS) -> Path:
    """Rows as another program would write them."""
    kind = path.name.removesuffix(".gz").partition(".")[2]
    text = {
        "json": lambda: json.dumps(rows),
        "pretty.json": lambda: json.dumps(rows, indent=2, ensure_ascii=False),
        "jsonl": lambda: "".join(json.dumps(row) + "\n" for row in rows),
        "lines.json": lambda: "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
    }
    plain = path.with_name("plain")
    if kind in text:
        plain.write_text(text[kind](), encoding="utf-8")
    elif kind == "csv":
        with open(plain, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        table = pa.Table.from_pylist(rows)
        if kind == "parquet":
            pq.write_table(table, plain)
        else:
            opened = pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream
            with pa.OSFile(str(plain), "wb") as file, opened(file, table.schema) as writer:
                writer.write_table(table)
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


every = pytest.mark.parametrize("kind", [*TEXTS, "parquet", "arrow", "file.arrow"])
packed = pytest.mark.parametrize("gz", ["", ".gz"], ids=["plain", "gzipped"])


@every
@packed
def test_every_kind_of_file_holds_the_same_rows(kind, gz, tmp_path):
    path = write(tmp_path / f"rows.{kind}{gz}")
    assert load_split(str(path), "train").to_list() == ROWS
    assert load_split(str(path), "test[1:]").to_list() == ROWS[1:]
    assert list(load_split(str(path), "train", streaming=True)) == ROWS
    assert [row.row for row in read_file(path)] == ROWS and count_rows(path) == 3


@every
@packed
def test_a_folder_of_one_kind(kind, gz, tmp_path):
    for name, rows in (("b", ROWS[1:]), ("a", ROWS[:1])):
        write(tmp_path / f"{name}.{kind}{gz}", rows)
    (tmp_path / ".hidden").write_text("x")
    assert load_split(str(tmp_path), "train").to_list() == ROWS
    assert list(load_split(str(tmp_path), "train", streaming=True)) == ROWS
    assert load_split(str(tmp_path), "train", data_files=[f"b.{kind}{gz}"]).to_list() == ROWS[1:]


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one", num_shards=2)
    assert load_split(str(tmp_path / "one"), "train[1:]").to_list() == ROWS[1:]
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "two")
    assert load_split(str(tmp_path / "two"), "test").to_list() == ROWS[:1]
    with pytest.raises(ValueError, match="has no split 'dev'; it has train, test"):
        load_split(str(tmp_path / "two"), "dev")


@pytest.mark.parametrize("kind", ["jsonl.gz", "csv", "csv.gz"])
def test_a_file_that_changed_is_read_again(kind, tmp_path):
    """`datasets` unpacks a path once, whatever stands there later."""
    path = write(tmp_path / f"rows.{kind}")
    assert load_split(str(path), "train").to_list() == ROWS
    write(path, ROWS[::-1])
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert load_split(str(path), "train").to_list() == ROWS[::-1]


def test_text_that_looks_like_a_date_is_text(tmp_path):
    """pyarrow makes times of it, and an answer is refused."""
    rows = [{"prompt": "When?", "chosen": "2024-01-31", "turns": [{"content": "2024-01-31T10:00:00"}]}] * 2
    assert load_split(str(write(tmp_path / "rows.jsonl", rows)), "train").to_list() == rows
    assert load_split(str(write(tmp_path / "rows.json", rows)), "train[1:]").to_list() == rows[1:]


# ---- csv -----------------------------------------------------------------------------------------------------------


def from_csv(tmp_path, text, name="rows.csv"):
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return load_split(str(tmp_path / name), "train").to_list()


def test_cells_of_a_csv_file(tmp_path):
    rows = from_csv(
        tmp_path,
        "prompt,chosen,rejected,margin,label,count,note,id\n"
        "1+1?,2,3,0.5,True,1,NA,123456789012345678901\n"
        "007,4,5,-1e3,false,,,1\n",
    )
    assert rows == [
        {
            **{"prompt": "1+1?", "chosen": "2", "rejected": "3", "margin": 0.5, "label": True, "count": 1},
            **{"note": "NA", "id": "123456789012345678901"},
        },
        {
            **{"prompt": "007", "chosen": "4", "rejected": "5", "margin": -1000.0, "label": False, "count": None},
            **{"note": None, "id": "1"},
        },
    ]


def test_a_column_has_one_type_in_all_files_of_a_folder(tmp_path):
    for name, cell in (("a", "1"), ("b", "0.5"), ("c", "")):
        (tmp_path / f"{name}.csv").write_text(f"chosen,score,word\n1,{cell},{'x' if name == 'b' else 2}\n")
    expected = [("1", 1.0, "2"), ("1", 0.5, "x"), ("1", None, "2")]
    assert [tuple(row.values()) for row in load_split(str(tmp_path), "train")] == expected
    (tmp_path / "d.csv").write_text("chosen,margin\n1,2\n")
    with pytest.raises(ValueError, match=r"d\.csv', line 1: its columns are chosen, margin, but '.*a\.csv' has chosen"):
        load_split(str(tmp_path), "train")


def test_a_csv_file_with_a_mark_of_utf8_and_windows_lines(tmp_path):
    rows = from_csv(tmp_path, '﻿prompt,chosen\r\n"a\r\nb",c\r\n\r\nd,e\r\n')
    assert rows == [{"prompt": "a\r\nb", "chosen": "c"}, {"prompt": "d", "chosen": "e"}]
    assert [row.line for row in read_file(tmp_path / "rows.csv")] == [2, 5]
    assert line_of(tmp_path / "rows.csv", 1) == 5


LISTS = [
    ('["a", "b"]', "completions"),
    ("['a' 'b']", "completions"),
    ("[1 0]", "labels"),
    ('{"a": 1}', "scores"),
    ('[{"role": "user", "content": "Hi"}]', "chosen"),
    ("[{'content': 'Hi', 'role': 'user'}\n {'content': 'Ho', 'role': 'assistant'}]", "prompt"),
    ("[{'from': 'human', 'value': 'Hi'}]", "conversations"),
]


@pytest.mark.parametrize(("cell", "column"), LISTS, ids=[column + cell[:6] for cell, column in LISTS])
def test_a_list_in_a_cell_is_an_error_with_a_remedy(cell, column, tmp_path):
    quoted = cell.replace('"', '""')
    with pytest.raises(ValueError, match=rf"rows\.csv', line 3: column '{column}' holds a list .*jsonl or parquet"):
        from_csv(tmp_path, f'other,{column}\nx,\ny,"{quoted}"\n')


def test_text_in_brackets_stays_text(tmp_path):
    text = 'prompt,chosen,note,tools\n[1],"[3, 4]",[sic],"[{""type"": ""function""}]"\nb,"{""a"": 1}",plain,\n'
    assert from_csv(tmp_path, text) == [
        {"prompt": "[1]", "chosen": "[3, 4]", "note": "[sic]", "tools": '[{"type": "function"}]'},
        {"prompt": "b", "chosen": '{"a": 1}', "note": "plain", "tools": None},
    ]


# ---- broken files --------------------------------------------------------------------------------------------------

GOOD = '{"prompt": "a", "chosen": "b"}'
BROKEN = [
    ("rows.jsonl", f"{GOOD}\n\n{GOOD[:-1]}, 5}}\n", "line 3: no JSON: Expecting property name"),
    ("rows.jsonl", f"{GOOD}\n{GOOD} {GOOD}\n", "line 2: no JSON: Extra data"),
    ("rows.jsonl", f"{GOOD}\n{GOOD[:-9]}", "line 2: no JSON: Unterminated string"),
    ("rows.jsonl", f"{GOOD},\n{GOOD}\n", "line 1: no JSON: Extra data"),
    ("rows.jsonl", f"{GOOD}\n[1]\n", "line 2: found list; expected a JSON object"),
    ("rows.jsonl", f"{GOOD}\n".encode() + b'{"prompt": "\xe9"}\n', "line 2: no UTF-8: .*invalid continuation byte"),
    ("rows.jsonl", f'{GOOD}\n{{"prompt": "a", "prompt": "b"}}\n', "line 2: 'prompt' is there twice"),
    ("rows.json", f"[{GOOD},\n{GOOD},\n]", "line 2: no JSON: there is a comma behind the last object"),
    ("rows.json", f"[{GOOD},\n{GOOD[:-1]}, 5}}]", "line 2: no JSON: Expecting property name"),
    ("rows.json", f"[{GOOD}\n{GOOD}]", "line 2: no JSON: expected ',' or ']' behind an object"),
    ("rows.json", f"[{GOOD},\n{GOOD}", "line 2: no JSON: expected ',' or ']' behind an object, found the end of the"),
    ("rows.json", f"[{GOOD}]\n{GOOD}", "line 2: no JSON: there is more behind the list"),
    ("rows.json", f'[{GOOD},\n"a"]', "line 2: found str; expected a JSON object"),
    ("rows.json", f"[{GOOD},\n".encode() + b'{"prompt": "\xe9"}]', "line 2: no UTF-8"),
    ("rows.csv", "prompt,chosen\na,b\n\nc\n", r"line 4: 1 cells, but the header has 2 \(prompt, chosen\)"),
    ("rows.csv", "prompt,chosen\na,b,c\n", "line 2: 3 cells, but the header has 2"),
    ("rows.csv", 'prompt,chosen\n"a\nb",c\n"d,e\n', "line 4: no csv: unexpected end of data"),
    ("rows.csv", 'prompt,chosen\na,"b"c\n', "line 2: no csv: ',' expected after"),
    ("rows.csv", b"prompt,chosen\na,b\n\xe9,c\n", "line 3: no UTF-8"),
    ("rows.csv", "prompt,prompt\na,b\n", "line 1: the header holds 'prompt', 'prompt'; expected the names"),
    ("rows.csv", "prompt;chosen\na;b\n", "line 1: the header is one cell, 'prompt;chosen'; expected commas"),
    ("rows.csv", "prompt\tchosen\na\tb\n", "line 1: the header is one cell, "),
    ("rows.csv", "prompt,\na,b\n", "line 1: the header holds 'prompt', ''"),
    ("rows.parquet", b"PAR1 and no more", "is no whole parquet file: "),
    ("rows.arrow", b"ARROW1 and no more", "is no whole arrow file: "),
    ("rows.jsonl", "", "is empty. Fill it"),
]


@packed
@pytest.mark.parametrize(("name", "text", "message"), BROKEN, ids=[message[:28] for _, _, message in BROKEN])
def test_a_broken_file_is_named_with_its_line(name, text, message, gz, tmp_path):
    path, content = tmp_path / f"{name}{gz}", text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if gz else content)
    if gz and not content:
        return  # an empty file, packed, has no rows
    with pytest.raises(ValueError, match=rf"{path.name}'(,| ){message}|{path.name}', {message}"):
        load_split(str(path), "train")
    with pytest.raises(ValueError, match=message):
        list(load_split(str(path), "train", streaming=True))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl.gz", "rows.csv"])
def test_a_file_without_rows(name, tmp_path):
    text = {"rows.json": "[]", "rows.jsonl.gz": "", "rows.csv": "prompt,chosen\n"}[name]
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    with pytest.raises(ValueError, match=f"{name}' has no rows. Give some"):
        load_split(str(tmp_path / name), "train")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_gzip_file_that_was_cut_off_names_the_line(kind, tmp_path):
    rows = [{"prompt": f"{number} {number * 7919 % 104729}", "chosen": "x" * (number % 50)} for number in range(5000)]
    path = write(tmp_path / f"rows.{kind}.gz", rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    unpacked = b""
    with gzip.open(path, "rb") as file, pytest.raises(EOFError):
        while piece := file.read1(1000):
            unpacked += piece
    line = unpacked.count(b"\n") + 1
    assert 100 < line < 5000
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"rows\.{kind}\.gz', line {line}: no more can be unpacked"):
            list(load_split(str(path), "train", streaming=streaming))
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"line 1: no more can be unpacked: Not a gzipped file"):
        load_split(str(path), "train")
    packed = tmp_path / "rows.parquet.gz"
    packed.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=r"rows\.parquet\.gz' is no whole gzip file"):
        load_split(str(packed), "train")


def test_a_stream_whose_columns_change(tmp_path):
    rows = [{"prompt": "a"}] * 1001 + [{"prompt": "a", "margin": 1}]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"rows\.jsonl' has the column 'margin' in line 1002, which the first 1000"):
        list(load_split(str(path), "train", streaming=True))
    with pytest.raises(ValueError, match=r"split='train\[:5\]': a stream of .* has no parts"):
        load_split(str(path), "train[:5]", streaming=True)


def test_names():
    assert [file_format(name) for name in ("a.JSON", "a.csv.gz", "a.b.arrow", "a.gz", "a")] == [
        *("json", "csv", "arrow", None, None)
    ]
    assert [bare_name(name) for name in ("x/pairs.csv.gz", "pairs.v2.parquet", "openbmb/Ultra-2.0")] == [
        *("pairs", "pairs.v2", "Ultra-2.0")
    ]
