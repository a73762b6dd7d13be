"""An `Inspection` in words, for a terminal or a file.

In: an `Inspection`. Out: lines of plain text (`lines`), and the example token by token (`example_text`), coloured or
with marks.
"""

from collections.abc import Iterator, Mapping

from rich.text import Text

from ..data.row_forms import TEXT, TURNS
from ..data.template_dates import writes_date
from ..data.tokenizing import reserved_tokens
from ..inspection import Inspection, Segment
from ..inspection.tokens import BATCH_ROWS
from ..texts import clean, one_line
from ..train.losses import LOSSES, names_of

_TRAINERS = {"pairs": "RewardTrainer (ORM)", "completions": "RewardTrainer (ORM)", "steps": "PRMTrainer (PRM)"}
_DEFAULTS = ("bradley_terry", "cross_entropy")  # the trainers' own `loss_type`
_HEAD, _TAIL = 48, 24  # tokens of a long part that are shown
_REASONS = _SUBSETS = 8
_CHARACTERS = 600  # of a part without tokens


def lines(inspection: Inspection, tokenizer=None) -> Iterator[str]:
    """Everything but the example."""
    yield from _rows(inspection)
    if inspection.tokens is not None:
        yield from _tokens(inspection)
    if inspection.tokens is not None and inspection.counts[TURNS]:
        yield from _date(tokenizer, inspection.options.get("chat_template_kwargs") or {})
    if inspection.merges is not None and inspection.merges.solutions:
        yield from _merges(inspection, tokenizer)


def _rows(inspection: Inspection) -> Iterator[str]:
    report = inspection.report
    read = f"{report.rows:,} rows"
    if inspection.rows is not None and report.rows < inspection.rows:
        read = f"the first {report.rows:,} of {inspection.rows:,} rows (--max-rows 0 reads all)"
    yield f"{inspection.name}: {read}"
    how = "by name" if inspection.named else "found from the columns"
    yield f"  format      {inspection.adapter} ({how}), for {_TRAINERS[inspection.form]}"
    yield f"  columns     {', '.join(inspection.columns)}"
    yield f"  loss_type   {_losses(inspection)}"
    if inspection.attributes is not None:
        yield f"  attributes  {', '.join(inspection.attributes)} (to be set, all or some of them)"
    if inspection.subsets:
        parts = [f"{name} {count:,}" for name, count in inspection.subsets.most_common(_SUBSETS)]
        more = len(inspection.subsets) - len(parts)
        yield f"  subsets     {', '.join(parts)}" + (f", and {more:,} more" if more else "")
    yield f"  kept        {report.examples:,} {_what(inspection)}" + (
        f" of {report.rows:,} rows" if report or inspection.refusals else ""
    )
    if report.examples:
        yield f"  form        {_form(inspection)}"
    yield from {"pairs": _pairs, "completions": _scored, "steps": _steps}[inspection.form](inspection)
    if inspection.weights:
        yield f"  weight      in {len(inspection.weights):,} {_what(inspection)}: {_spread(inspection.weights)}"
    yield from (f"  {line.strip()}" for line in str(report).splitlines()[1:])
    if not (report.dropped or report.cut_rows or inspection.refusals):
        yield "  left out    none" + (", none cut" if inspection.tokens else "")
    if inspection.refusals:
        yield "  REFUSED     training stops at the first of these (on_bad_row: drop leaves them out)"
        for why, rows in list(inspection.refusals.items())[:_REASONS]:
            yield f"    {_counted(rows, report.places)}: {why}" if rows else f"    {why}"
        if len(inspection.refusals) > _REASONS:
            yield f"    ... and {len(inspection.refusals) - _REASONS:,} more reasons"


def _what(inspection: Inspection) -> str:
    steps = "trees of steps" if inspection.counts["trees"] else "solutions"
    return {"pairs": "pairs", "completions": "completions", "steps": steps}[inspection.form]


def _form(inspection: Inspection) -> str:
    text, turns = inspection.counts[TEXT], inspection.counts[TURNS]
    if text and turns:
        return f"{text:,} text and {turns:,} conversations: a model of both scores each as it is handed over"
    return "conversations, as the chat template renders them" if turns else "text, which no chat template renders"


def _date(tokenizer, chat_template_kwargs: dict) -> Iterator[str]:
    if writes_date(tokenizer, **chat_template_kwargs):
        yield "  The chat template writes the date into the prompt; training keeps that of its first day, and saves it."


def _losses(inspection: Inspection) -> str:
    if not inspection.losses:
        return "none takes all of these rows"
    text = ", ".join(inspection.losses)
    return text if set(_DEFAULTS) & set(inspection.losses) else f"{text} (to be set: the default takes no such rows)"


def _pairs(inspection: Inspection) -> Iterator[str]:
    counts = inspection.counts
    if lists := counts["lists"]:
        sizes = sorted(int(key.rsplit(" ", 1)[1]) for key in counts if key.startswith("lists of "))
        of = f"{sizes[0]} to {sizes[-1]}" if sizes[0] < sizes[-1] else f"{sizes[0]}"
        yield f"  lists       {lists:,} ranked lists of {of} completions, scored {_spread(inspection.scores['score'])}:"
        yield f"              {' and '.join(names_of('lists'))} take each whole, other losses of pairs every pair"
    if ties := counts["ties"]:
        takers = " and ".join(loss.name for loss in LOSSES.values() if "tie" in loss.columns)
        yield f"  ties        {ties:,} more pairs, which {takers} alone trains on; other losses leave them out"
    if counts["margin"]:
        yield f"  margin      in {counts['margin']:,} pairs"
    if soft := counts["chosen_probability"]:
        yield f"  soft        chosen_probability in {soft:,} pairs"
    if "longer_wins" in counts:
        wins = _percent(counts["longer_wins"], inspection.report.examples)
        yield f"  baseline    the longer one is the chosen one in {wins}"


def _scored(inspection: Inspection) -> Iterator[str]:
    for number, (name, scores) in enumerate(inspection.scores.items()):
        title = "scores" if number == 0 else ""
        yield f"  {title:<11} {'' if inspection.attributes is None else f'{name}: '}{len(scores):,}, {_spread(scores)}"


def _steps(inspection: Inspection) -> Iterator[str]:
    counts = inspection.counts
    if labels := counts["labels"]:
        soft = f", {counts['soft']:,} of them soft" if counts["soft"] else ""
        yield f"  labels      {labels:,}{soft}, {_percent(counts['wrong'], labels)} wrong"
    if outcomes := counts["outcomes"]:
        wrong = _percent(counts["bad_outcomes"], outcomes)
        yield f"  outcomes    {outcomes:,} solutions without labels of their steps, {wrong} wrong"


def _spread(numbers: list[float]) -> str:
    """
    >>> _spread([0.0, 1.0, 5.0]), _spread([2.0, 2.0])
    ('from 0 to 5, mean 2', 'all 2')
    """
    least, most = min(numbers), max(numbers)
    return (
        f"from {least:.4g} to {most:.4g}, mean {sum(numbers) / len(numbers):.4g}" if least < most else f"all {most:.4g}"
    )


def _tokens(inspection: Inspection) -> Iterator[str]:
    tokens, limit = inspection.tokens, inspection.options.get("max_length")
    yield ""
    yield f"Tokens of what is kept ({'no limit' if limit is None else f'max_length {limit}'})"
    yield f"  {'':<28}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}"
    first = "beginnings that pairs share" if inspection.form == "pairs" else "prompts"
    names = ((first, tokens.prompts), ("sequences", tokens.sequences))
    for name, spread in names:
        yield f"  {name:<28}{spread.p50:>8,}{spread.p90:>8,}{spread.p99:>8,}{spread.max:>8,}"
    yield f"  {'all sequences':<24}{tokens.tokens:>12,}"
    yield f"  Batches of {BATCH_ROWS} random rows:"
    yield f"    padded: {100 * tokens.padding:.0f} % of the tokens are padding"
    yield (
        f"    prefix sharing: {tokens.sharing:.2f} tokens for each one computed, "
        f"{tokens.batch_padded / tokens.batch_unique:.1f} times fewer than padded"
    )
    best = tokens.tokens / tokens.unique
    if best > 1.05 * tokens.sharing:
        yield f"  All rows as one tree: {best:.2f}; `group_by_prefix=True` goes towards that."


def _merges(inspection: Inspection, tokenizer) -> Iterator[str]:
    merges, token = inspection.merges, inspection.options.get("step_token")
    separator = token or inspection.options.get("step_separator", "\n")
    yield ""
    yield f"Step separator {separator!r}"
    if not merges.differing:
        yield f"  merges nowhere: {merges.solutions:,} solutions give the same tokens when their text is joined first"
        return
    share = _percent(merges.merged, merges.steps)
    yield (
        f"  is tokenized otherwise behind the step before it in {share} of {merges.steps:,} steps; "
        f"{_percent(merges.differing, merges.solutions)} of the solutions have other tokens"
    )
    yield "  when somebody tokenizes the joint text, and other scores then. The first place:"
    for name, texts in zip(("as trained", "joint text"), merges.example, strict=True):
        yield f"    {name}   {'|'.join(map(_shown, texts))}"
    reserved = [] if tokenizer is None else reserved_tokens(tokenizer)[:1]
    remedy = f"train with step_token={reserved[0]!r}, which cannot merge" if reserved else "train with a `step_token`"
    yield f"  Score with `rewardplug score` or RewardScorer, which tokenize as training does; or {remedy}."


def example_text(segments: list[Segment], *, colour: bool) -> Text:
    """The example, one line for each part; scored tokens stand out.

    >>> print(example_text([Segment("step 1, right", ["Two", ".", "\\n"], scored=2)], colour=False).plain)
      step 1, right
        Two|.|[[\\n]]
    """
    text = Text()
    for segment in segments:
        text.append(f"  {one_line(segment.title)}\n    ", style="bold" if colour else "")
        if len(segment.tokens) == 1 and segment.scored is None:
            text.append(clean(_shortened(segment.tokens[0])).replace("\n", "\n    "))
        else:
            _append_tokens(text, segment, colour)
        text.append("\n")
    text.rstrip()
    return text


def _append_tokens(text: Text, segment: Segment, colour: bool) -> None:
    count = len(segment.tokens)
    for index, token in enumerate(segment.tokens):
        if _HEAD <= index < count - _TAIL and count > _HEAD + _TAIL + 8:
            if index == _HEAD:
                text.append(f" ... {count - _HEAD - _TAIL} tokens ... ", style="dim" if colour else "")
            continue
        scored, shown = index == segment.scored, _shown(token)
        if colour:
            text.append(shown, style="bold black on green" if scored else ("cyan", "magenta")[index % 2])
        else:
            text.append(("|" if index else "") + (f"[[{shown}]]" if scored else shown))


def _shown(token: str) -> str:
    """A token's text, its white space made visible.

    >>> _shown(" a\\n")
    ' a\\\\n'
    """
    return clean(token.replace("\r", "\\r")).replace("\n", "\\n").replace("\t", "\\t")


def _shortened(text: str) -> str:
    if len(text) <= _CHARACTERS:
        return text
    return f"{text[: 2 * _CHARACTERS // 3]} ... {text[-_CHARACTERS // 3 :]}"


def _counted(rows: list[int], places: Mapping[int, str]) -> str:
    """
    >>> _counted([3], {}), _counted([3], {3: "row 1 of b.jsonl"}), _counted([0, 1, 2, 3, 4, 5, 6], {})
    ('row 3', 'row 1 of b.jsonl', '7 rows (0, 1, 2, 3, 4, ...)')
    """
    if len(rows) == 1:
        return places.get(rows[0], f"row {rows[0]}")
    shown = ", ".join(places.get(row, str(row)) for row in rows[:5])
    return f"{len(rows):,} rows ({shown}{', ...' if len(rows) > 5 else ''})"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
