"""The report of a run: its figures by hand, hostile text as text, and the page as a real browser shows it."""

import html.parser
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_rewardplug.score.report import figures, write_report

EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
STRANGE = "\x00 \u2028 \u202ereversed \ud800 مرحبا 🎉 " + "w" * 400 + " {{ 7 * 7 }} $\\frac{1$ </style></body>"

PAIRS = [  # margins 2, 0, -1, 3; tokens chosen - rejected 3, -2, 5, 0
    {"prompt": "p", "completions": ["a", "b"], "scores": [2.0, 0.0], "lengths": [5, 2], "subset": "x"},
    {"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 1.0], "lengths": [1, 3], "subset": "x"},
    {"prompt": "p", "completions": ["a", "b"], "scores": [0.0, 1.0], "lengths": [9, 4], "subset": "y"},
    {"prompt": "p", "completions": ["a", "b"], "scores": [3.0, 0.0], "lengths": [2, 2], "subset": None},
]
SOLUTIONS = [  # found wrong: 0 0 1 | 1 0; labelled wrong: 0 - 1 | 0 1
    {"prompt": "p", "steps": ["s", "t", "u"], "probabilities": [0.9, 0.8, 0.1], "labels": [1.0, -100, 0.0]},
    {"prompt": "p", "steps": ["s", "t"], "probabilities": [0.4, 0.6], "labels": [1.0, 0.0]},
]
LOGS = [
    {"step": 0, "eval_loss": 0.7, "eval_accuracy": 0.25, "eval_mean_reward": 0.0, "eval_std_reward": 1.0},
    {"step": 1, "loss": 0.6, "accuracy": 0.5, "mean_reward": 0.1, "std_reward": 1.0, "num_tokens": 120},
    {"step": 2, "loss": math.nan, "accuracy": 0.75, "mean_reward": 0.2, "std_reward": 1.0, "num_tokens": 240},
    {"step": 2, "eval_loss": 0.5, "eval_accuracy": 0.5, "eval_subset_x_accuracy": 0.5},
]


def make_run(folder: Path, items=None, **files) -> Path:
    """A run's folder; `files`: eval_results={...} is eval_results.json."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"trainer_state": {"global_step": 2, "log_history": LOGS}, **files}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    if items is not None:
        (folder / "eval_items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    return folder


def hostile(kind: str) -> list[dict]:
    """Thirty examples with every text that could do harm, and none that could not."""
    generator = np.random.default_rng(0)
    subsets, texts = [EVIL, "$\\frac{", "math", None], [EVIL, STRANGE, "plain " * 300]
    rows = []
    for number in range(30):
        row = {"prompt": texts[number % 3], "subset": subsets[number % 4]}
        if kind == "scored":
            rewards = {EVIL: float(generator.normal()), "brief": 0.5}
            text, scores = EVIL + STRANGE, {EVIL: float(generator.normal()), "brief": [None, 1.0][number % 2]}
            rows.append({"text": text, "rewards": rewards, "scores": scores, "subset": row["subset"]})
        elif kind == "orm":
            scores, lengths = generator.normal(size=2).tolist(), generator.integers(1, 60, 2).tolist()
            rows.append({**row, "completions": [texts[0], texts[1]], "scores": scores, "lengths": lengths})
        else:
            count = int(generator.integers(1, 40))
            labels = generator.choice([1.0, 0.0, 0.3, -100] if kind == "prm" else [-100], count).tolist()
            steps = [texts[step % 3] for step in range(count)]
            row |= {} if kind == "prm" else {"outcome": float(number % 2), "prompt": EVIL + STRANGE}
            rows.append({**row, "steps": steps, "probabilities": generator.random(count).tolist(), "labels": labels})
    return rows


OWN_SECTIONS = {
    "orm": {"scores", "where"},
    "prm": {"scores", "where", "steps"},
    "scored": {"scores", "where"},
    "outcomes": {"outcomes", "steps"},
}


@pytest.fixture(scope="module", params=OWN_SECTIONS)
def page(request, tmp_path_factory) -> Path:
    """The report of a run that is hostile in all its texts."""
    folder = tmp_path_factory.mktemp("reports") / f"<b onclick=x>{request.param}"
    kind = "orm" if request.param in ("orm", "scored") else "prm"
    architecture = {"orm": "ForSequenceClassification", "prm": "ForTokenClassification"}[kind]
    described = {"kind": kind, "step_separator": EVIL, "attribute_weights": [0.5, 0.5]}
    config = {"architectures": [EVIL + architecture], "rewardplug": described, "id2label": {"0": EVIL, "1": "brief"}}
    benchmark = {
        "name": EVIL,
        "figures": {"accuracy": 0.5, f"accuracy/{EVIL}": 0.25, **{f"f{i}": 0.5 for i in range(30)}},
    }
    return write_report(make_run(folder, hostile(request.param), config=config, benchmark_x=benchmark))


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_of_four_pairs():
    found = figures.pair_figures(PAIRS)
    assert found.accuracy == (0.5, 0.25, 4)  # sqrt(0.5 * 0.5 / 4)
    assert (found.values["ties"], found.values["margin"]) == (0.25, 1.0)
    losses = [math.log1p(math.exp(-margin)) for margin in (2, 0, -1, 3)]
    assert found.values["loss"] == pytest.approx(sum(losses) / 4)
    assert found.longer == (1 + 0 + 1 + 0.5) / 4
    assert [(b.low, b.high, b.share.n, b.share.value) for b in found.lengths] == [
        (-2, -2, 1, 0),
        (0, 0, 1, 1),
        (3, 5, 2, 0.5),
    ]
    assert {name: share[::2] for name, share in found.subsets.items()} == {"(none)": (1, 1), "x": (0.5, 2), "y": (0, 1)}


def test_figures_of_five_steps():
    found = figures.step_figures(SOLUTIONS)
    assert found.accuracy[::2] == (0.5, 4)
    assert found.accuracy.error == pytest.approx(math.sqrt(1 + 1) / 4)  # two solutions, +1 and -1 from the mean
    assert found.values["first_wrong_accuracy"] == pytest.approx((0.5, 0.5 / math.sqrt(2), 2))
    assert (found.values["f1_wrong"], found.values["wrong_rate"]) == (0.5, 0.5)  # one of two found, one of two right
    assert found.values["auroc"] == 0.75  # 0.9 beats both wrong steps, 0.4 beats 0.1 only: 3 of 4
    assert found.subsets == {}


def test_equal_differences_in_tokens_share_a_bin():
    bins = figures.length_bins(np.array([1] * 30 + [2] * 10), np.ones(40, dtype=bool))
    assert [(each.low, each.high, each.share.n) for each in bins] == [(1, 1, 30), (2, 2, 10)]


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
def test_the_definitions_are_those_of_training(scale):
    from hf_rewardplug import figures as metrics

    generator = np.random.default_rng(1)
    chosen, rejected = scale * generator.normal(size=(2, 200)).round(1)
    theirs = metrics.pair_figures(chosen, rejected)
    rows = [{"scores": pair} for pair in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    ours = figures.pair_figures(rows)
    assert (ours.accuracy.value, ours.values["ties"]) == (theirs["accuracy"], theirs["ties"])
    assert (ours.values["margin"], ours.values["ece"]) == pytest.approx((theirs["margin"], theirs["ece"]), abs=1e-9)

    steps = [row for row in hostile("prm") if any(label != -100 for label in row["labels"])]
    labelled = [
        [pair for pair in zip(row["probabilities"], row["labels"], strict=True) if pair[1] != -100] for row in steps
    ]
    probabilities, labels = np.array([pair for row in labelled for pair in row]).T
    back = np.array([int(index > 0) for row in labelled for index in range(len(row))])
    theirs = metrics.step_figures(probabilities, labels, back_S=back)
    ours = figures.step_figures(steps)
    assert ours.accuracy.value == pytest.approx(theirs["accuracy"])
    assert (ours.values["f1_wrong"], ours.values["auroc"]) == pytest.approx((theirs["f1_wrong"], theirs["auroc"]))
    assert ours.values["first_wrong_accuracy"].value == pytest.approx(theirs["first_wrong_accuracy"])


# ---- pages -----------------------------------------------------------------------------------------------------------


def test_a_page_says_the_figures_and_its_charts_lie_beside_it(tmp_path):
    run = make_run(tmp_path / "run", PAIRS, eval_results={"eval_loss": 0.4321, "eval_accuracy": 0.5})
    page = write_report(run)
    text = page.read_text(encoding="utf-8")
    assert page == run / "report.html"
    for figure in (
        "0.500 ± 0.250",
        "0.432",
        "before training: 0.250",
        "240 tokens",
        "Not finite, and left out: 1.",
        "0.625",
    ):
        assert figure in text, figure
    names = {path.stem for path in (run / "report").glob("*.png")}
    assert {"rewards", "calibration", "subsets", "lengths", "training_loss", "training_mean_reward"} <= names
    assert "Two accuracies" not in text
    assert "n: 1 (training logs), 2 (evaluations). Not finite, and left out: 1." in text


def test_the_last_evaluation_ends_the_curves(tmp_path):
    state = {"global_step": 2, "log_history": LOGS[:3]}
    text = write_report(make_run(tmp_path / "a", trainer_state=state)).read_text(encoding="utf-8")
    assert "n: 2 (training logs), 1 (evaluations)." in text
    run = make_run(tmp_path / "b", trainer_state=state, eval_results={"eval_loss": 0.5, "eval_accuracy": 0.5})
    assert "n: 2 (training logs), 2 (evaluations)." in write_report(run).read_text(encoding="utf-8")


def test_figures_of_another_evaluation_are_told(tmp_path):
    page = write_report(make_run(tmp_path, PAIRS, eval_results={"eval_accuracy": 0.75}))
    assert "0.750 in eval_results.json; this page counts eval_items.jsonl" in page.read_text(encoding="utf-8")


def test_output_elsewhere(tmp_path):
    run = make_run(tmp_path / "run", SOLUTIONS)
    page = write_report(str(run), output=tmp_path / "new" / "steps.html")
    assert (tmp_path / "new" / "steps" / "steps.png").is_file() and page.is_file()
    assert not (run / "report.html").exists()
    with pytest.raises(ValueError, match=r"Let it end in \.html"):
        write_report(run, output=tmp_path / "page")


def test_many_evaluation_sets(tmp_path):
    names = ["accuracy", "f1_wrong", "first_wrong_accuracy", "subset_x_accuracy"]
    logs = [{"step": step, **{f"eval_{n}_{k}": 0.5 for n in range(10) for k in names}} for step in (1, 2)]
    state = {"global_step": 2, "log_history": logs}
    text = write_report(make_run(tmp_path, SOLUTIONS, trainer_state=state)).read_text(encoding="utf-8")
    assert text.count("2 (evaluations 5). Not drawn: 4 evaluation sets.") == 2 * 3  # caption and alt


def test_without_items_the_page_says_how_to_get_them(tmp_path):
    text = write_report(make_run(tmp_path)).read_text(encoding="utf-8")
    assert 'id="missing"' in text and "eval_items.jsonl" in text and "The recipes write it" in text
    assert 'id="examples"' not in text and "training_loss" in text


def test_without_a_state_the_error_names_the_newest_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"trainer\.save_state\(\).*recipes do\)\.$"):
        write_report(tmp_path)
    make_run(tmp_path / "checkpoint-7")
    with pytest.raises(ValueError, match=r"or take the checkpoint '.*checkpoint-7'"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ("{", "line 2: no JSON"),
        ([1], "line 2: found list"),
        (SOLUTIONS[0], r"line 2: found \['labels', 'probabilities', 'prompt', 'steps'\]"),
        ({**PAIRS[0], "scores": [1.0]}, r"'scores' is no list of 2 numbers \(found: 1 values\)"),
        ({**PAIRS[0], "completions": ["a", 3]}, "'completions' is no list of 2 texts"),
        ({**PAIRS[0], "prompt": [{"role": "user"}]}, "'prompt' is no text"),
        ({**PAIRS[0], "subset": 3}, "'subset' is a int"),
    ],
)
def test_a_bad_line_is_named(tmp_path, item, why):
    run = make_run(tmp_path, [PAIRS[0]])
    with (run / "eval_items.jsonl").open("a", encoding="utf-8") as lines:
        lines.write("\n" + (item if isinstance(item, str) else json.dumps(item)))
    with pytest.raises(ValueError, match=f"{why}.*(Expected|write it anew)"):
        write_report(run)


def test_a_bad_step_or_file_is_named(tmp_path):
    bad = {**SOLUTIONS[1], "probabilities": [0.4, 1.5]}
    with pytest.raises(ValueError, match=r"line 1: 'probabilities' holds 1\.5"):
        write_report(make_run(tmp_path, [bad]))
    with pytest.raises(ValueError, match=r"benchmark_a\.json' has no 'figures'"):
        write_report(make_run(tmp_path, SOLUTIONS, benchmark_a={"name": "a"}))


def test_scores_that_are_no_numbers_and_steps_without_labels(tmp_path):
    broken = [{**PAIRS[0], "scores": [math.nan, 0.0], "lengths": None}, {**PAIRS[1], "scores": [math.inf, 0.0]}]
    text = write_report(make_run(tmp_path / "a", [*broken, PAIRS[2]])).read_text(encoding="utf-8")
    assert "2 scores are no finite numbers" in text
    write_report(make_run(tmp_path / "b", broken[:1]))  # not one number
    unlabelled = [{**SOLUTIONS[0], "labels": [-100] * 3}]
    text = write_report(make_run(tmp_path / "c", unlabelled)).read_text(encoding="utf-8")
    assert "Probabilities of the steps" in text and "0 labelled steps" in text


def test_without_matplotlib_the_numbers_stand(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find_spec(name, *a)
    )
    run = make_run(tmp_path, PAIRS)
    text = write_report(run).read_text(encoding="utf-8")
    assert "hf_rewardplug[plots]" in text and "<img" not in text and "<details open>" in text
    assert not (run / "report").exists()


def test_a_report_needs_no_torch(tmp_path):
    run = make_run(tmp_path, PAIRS)
    code = (
        "import sys; from hf_rewardplug.score.report import write_report; "
        f"write_report({str(run)!r}); print({{'torch', 'transformers', 'matplotlib.pyplot'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# ---- hostile text ----------------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_text_from_the_data_stays_text(page):
    found = Tags(page)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "svg"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    assert found.text.count(EVIL) > 10
    assert "{{ 7 * 7 }}" in found.text and "⟨U+202E⟩reversed ⟨U+D800⟩ مرحبا 🎉" in found.text
    policy = next(a["content"] for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """`browser(page, width)`: what Chromium makes of a page: its DOM and its messages."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
    if (program := next(filter(None, map(shutil.which, names)), None)) is None:
        pytest.skip("no headless browser: apt-get install -y --no-install-recommends chromium-headless-shell")
    profile = tmp_path_factory.mktemp("profile")

    def show(page: Path, width: int, *options: str) -> tuple[str, str]:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        command = [program, *flags, f"--user-data-dir={profile}", f"--window-size={width},900", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return show


MEASURE = """<pre id="measured"></pre><script>
const scrolls = node => node && (getComputedStyle(node).overflowX === "auto" || scrolls(node.parentElement));
document.getElementById("measured").textContent = JSON.stringify({
  title: document.title,
  width: document.documentElement.scrollWidth,
  outside: [...document.body.querySelectorAll("*")]
    .filter(node => node.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node))
    .map(node => node.outerHTML.slice(0, 80)),
  images: document.images.length,
  broken: [...document.images].filter(image => !image.naturalWidth).length,
  loaded: performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:")),
  scripts: document.scripts.length,
  ids: [...document.querySelectorAll("section")].map(node => node.id),
  border: getComputedStyle(document.querySelector("article")).borderTopStyle,
});
</script></body>"""


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_in_a_browser(page, browser, width, tmp_path):
    """Escaping alone must do: the measured copy has no Content-Security-Policy, so that it can run our script."""
    source = page.read_text(encoding="utf-8")
    head, _, rest = source.partition('<meta http-equiv="Content-Security-Policy"')
    copy = tmp_path / "measured.html"
    copy.write_text(head + rest.partition(">")[2].replace("</body>\n</html>", MEASURE), encoding="utf-8")
    dom, _ = browser(copy, width, "--dump-dom")
    measured = json.loads(html.unescape(dom.partition('<pre id="measured">')[2].partition("</pre>")[0]))
    assert measured["title"].startswith("<b onclick=x>") and measured["title"].endswith(": report")
    assert (measured["scripts"], measured["loaded"], measured["broken"]) == (1, [], 0)  # ours
    assert (measured["width"], measured["outside"]) == (width, [])
    kind = page.parent.name.removeprefix("<b onclick=x>")
    assert measured["images"] == source.count('<img src="data:') >= (4 if kind == "scored" else 6)
    expected = {"figures", "training", "examples", "benchmarks", "run", "missing"} | OWN_SECTIONS[kind]
    assert expected <= set(measured["ids"])
    assert measured["border"] == "solid"


def test_the_policy_lets_the_page_through_and_nothing_else(page, browser, tmp_path):
    dom, messages = browser(page, 800, "--dump-dom")
    assert messages == "" and '<section id="figures"' in dom
    attacked = tmp_path / "attacked.html"
    source = page.read_text(encoding="utf-8")
    attacked.write_text(source.replace("</main>", f"{EVIL}</main>"), encoding="utf-8")
    dom, messages = browser(attacked, 800, "--dump-dom")
    assert "<title>pwned" not in dom and "script-src" in messages and "img-src" in messages


def test_the_screenshot_is_no_blank_page(page, browser, tmp_path):
    from PIL import Image

    shot = tmp_path / "page.png"
    browser(page, 1200, f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("L"))
    assert pixels.shape == (900, 1200)
    assert (pixels == 255).mean() > 0.5 > (pixels < 100).mean() > 0.005  # dark text on white
