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

_TRAINERS = {"pairs": "RewardTrainer (ORM)", "scored": "RewardTrainer (ORM)", "steps": "PRMTrainer (PRM)"}
_DEFAULTS = ("bradley_terry", "cross_entropy")  # the trainers' own `loss_type`
_HEAD, _TAIL = 48, 24  # tokens of a long part that are shown
_REASONS = _SUBSETS = 8
_CHARACTERS = 600  # of a part without tokens


def lines(found: Inspection, tokenizer=None) -> Iterator[str]:
    """All but the example."""
    yield from _rows(found)
    if found.tokens is not None:
        yield from _tokens(found)
    if found.tokens is not None and found.counts[TURNS]:
        yield from _date(tokenizer, found.options.get("chat_template_kwargs") or {})
    if found.merges is not None and found.merges.solutions:
        yield from _merges(found, tokenizer)


def _rows(found: Inspection) -> Iterator[str]:
    report = found.report
    read = f"{report.rows:,} rows"
    if found.rows is not None and report.rows < found.rows:
        read = f"the first {report.rows:,} of {found.rows:,} rows (--max-rows 0 reads all)"
    yield f"{found.name}: {read}"
    how = "by name" if found.named else "found from the columns"
    yield f"  format      {found.adapter} ({how}), for {_TRAINERS[found.kind]}"
    yield f"  columns     {', '.join(found.columns)}"
    yield f"  loss_type   {_losses(found)}"
    if found.attributes is not None:
        yield f"  attributes  {', '.join(found.attributes)} (to be set, all or some of them)"
    if found.subsets:
        parts = [f"{name} {count:,}" for name, count in found.subsets.most_common(_SUBSETS)]
        more = len(found.subsets) - len(parts)
        yield f"  subsets     {', '.join(parts)}" + (f", and {more:,} more" if more else "")
    yield f"  kept        {report.examples:,} {_what(found)}" + (
        f" of {report.rows:,} rows" if report or found.refusals else ""
    )
    if report.examples:
        yield f"  form        {_form(found)}"
    yield from {"pairs": _pairs, "scored": _scored, "steps": _steps}[found.kind](found)
    if found.weights:
        yield f"  weight      in {len(found.weights):,} {_what(found)}: {_spread(found.weights)}"
    yield from (f"  {line.strip()}" for line in str(report).splitlines()[1:])
    if not (report.dropped or report.cut_rows or found.refusals):
        yield "  left out    none" + (", none cut" if found.tokens else "")
    if found.refusals:
        yield "  REFUSED     training stops at the first of these (on_bad_row: drop leaves them out)"
        for why, rows in list(found.refusals.items())[:_REASONS]:
            yield f"    {_counted(rows, report.places)}: {why}" if rows else f"    {why}"
        if len(found.refusals) > _REASONS:
            yield f"    ... and {len(found.refusals) - _REASONS:,} more reasons"


def _what(found: Inspection) -> str:
    steps = "trees of steps" if found.counts["trees"] else "solutions"
    return {"pairs": "pairs", "scored": "completions", "steps": steps}[found.kind]


def _form(found: Inspection) -> str:
    text, turns = found.counts[TEXT], found.counts[TURNS]
    if text and turns:
        return f"{text:,} text and {turns:,} conversations: a model of both scores each as it is handed over"
    return "conversations, as the chat template renders them" if turns else "text, which no chat template renders"


def _date(tokenizer, chat_template_kwargs: dict) -> Iterator[str]:
    if writes_date(tokenizer, **chat_template_kwargs):
        yield "  The chat template writes the date into the prompt; training keeps that of its first day, and saves it."


def _losses(found: Inspection) -> str:
    if not found.losses:
        return "none takes all of these rows"
    text = ", ".join(found.losses)
    return text if set(_DEFAULTS) & set(found.losses) else f"{text} (to be set: the default takes no such rows)"


def _pairs(found: Inspection) -> Iterator[str]:
    counts = found.counts
    if lists := counts["lists"]:
        sizes = sorted(int(key.rsplit(" ", 1)[1]) for key in counts if key.startswith("lists of "))
        of = f"{sizes[0]} to {sizes[-1]}" if sizes[0] < sizes[-1] else f"{sizes[0]}"
        yield f"  lists       {lists:,} ranked lists of {of} completions, scored {_spread(found.scores['score'])}:"
        yield f"              {' and '.join(names_of('lists'))} take each whole, other losses of pairs every pair"
    if ties := counts["ties"]:
        takers = " and ".join(loss.name for loss in LOSSES.values() if "tie" in loss.columns)
        yield f"  ties        {ties:,} more pairs, which {takers} alone trains on; other losses leave them out"
    if counts["margin"]:
        yield f"  margin      in {counts['margin']:,} pairs"
    if soft := counts["chosen_probability"]:
        yield f"  soft        chosen_probability in {soft:,} pairs"
    if "longer_wins" in counts:
        wins = _percent(counts["longer_wins"], found.report.examples)
        yield f"  baseline    the longer one is the chosen one in {wins}"


def _scored(found: Inspection) -> Iterator[str]:
    for number, (name, scores) in enumerate(found.scores.items()):
        title = "scores" if number == 0 else ""
        yield f"  {title:<11} {'' if found.attributes is None else f'{name}: '}{len(scores):,}, {_spread(scores)}"


def _steps(found: Inspection) -> Iterator[str]:
    counts = found.counts
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


def _tokens(found: Inspection) -> Iterator[str]:
    tokens, limit = found.tokens, found.options.get("max_length")
    yield ""
    yield f"Tokens of what is kept ({'no limit' if limit is None else f'max_length {limit}'})"
    yield f"  {'':<28}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}"
    first = "beginnings that pairs share" if found.kind == "pairs" else "prompts"
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


def _merges(found: Inspection, tokenizer) -> Iterator[str]:
    merges, token = found.merges, found.options.get("step_token")
    separator = token or found.options.get("step_separator", "\n")
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
    """The example, a part a line; scored tokens stand out.

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
    """A token's text with its white space in sight.

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
