"""The report of a run: a folder that a trainer left -> one HTML page for people, and its charts as PNGs.

    read_run        the folder's files, checked                          data.py
    sections        figures, charts, examples, what is missing           {sections,figures,examples}.py
    png             each chart                                           {plots,curves}.py
    the template    all text escaped, images inlined                     page.html.jinja

The page loads nothing and runs nothing: it has no script, every text from the data is escaped, and its
Content-Security-Policy allows inlined images and its own style sheet, by the hash, alone. The charts need matplotlib,
the extra `plots`; without it the page holds their numbers.
"""

import base64
import hashlib
import importlib.util
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import hf_rewardplug

from ...texts import clean
from .data import read_run
from .plots import SHADES, png
from .sections import Section, sections


def write_report(run: str | Path, *, output: str | Path | None = None) -> Path:
    """Write the report of a run: what its folder holds, and how to get what it lacks.

        write_report("runs/orm_gemma")     runs/orm_gemma/report.html, runs/orm_gemma/report/*.png

    Args:
        run: a trainer's `output_dir`, or a checkpoint: trainer_state.json, and where there are such eval_results.json,
            config.json or reward_config.json, eval_items.jsonl and benchmark_*.json.
        output: the page; its charts lie in a folder beside it, of its name without the suffix.

    Returns:
        The page.

    Raises:
        ValueError: there is no trainer_state.json, or a file cannot be read, by its name and line.
    """
    folder = Path(run)
    page = folder / "report.html" if output is None else Path(output)
    if page.suffix not in (".html", ".htm"):
        raise ValueError(f"output='{output}' is no name of a page. Let it end in .html; the charts lie beside it.")
    found = read_run(folder)
    content = sections(found)
    images = _save_charts(content, page.with_suffix(""))
    html = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=_title(folder.resolve()),
            kind={"orm": "Outcome reward model", "prm": "Process reward model"}[found.kind],
            sections=content,
            images=images,
            shades=SHADES,
            version=hf_rewardplug.__version__,
            now=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
    return page


def _title(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("checkpoint-") else folder.name


def _save_charts(content: list[Section], folder: Path) -> dict[str, str] | None:
    """{chart: data URL}, and each as folder/NAME.png; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    images = {}
    folder.mkdir(parents=True, exist_ok=True)
    for chart in (chart for section in content for chart in section.charts):
        image = png(chart)
        (folder / f"{chart.name}.png").write_bytes(image)
        images[chart.name] = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return images


# ---- the template ----------------------------------------------------------------------------------------------------


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters |= {"shortened": shortened, "csp_hash": csp_hash}
    return environment


def shortened(text: str, most: int) -> str:
    """The beginning and the end of a long text.

    >>> shortened("abcdefghij", 10), shortened("abcdefghijklmnopqrst", 10)
    ('abcdefghij', 'abcdef […] qrst')
    """
    if len(text) <= most:
        return text
    tail = most * 2 // 5
    return f"{text[: most - tail]} […] {text[-tail:]}"


def csp_hash(style: str) -> str:
    """Source of an inline style sheet in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(style).encode()).digest()).decode()}"
