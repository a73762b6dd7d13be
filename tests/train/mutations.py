"""Values of JSON with something changed in them, at random: what files hold that somebody edited or cut off."""

import copy
import json
import math

from hypothesis import strategies as st

STRANGE = st.sampled_from(
    [
        *(None, True, "", "text", "\ud800$\\frac{", [], [1], {}, {"a": 1}, [[1, 2]], 0, -1, 3, 1.5, 10**400),
        *(-(10**400), 1e300, -1e300, 3e38, 5e-324, -0.0, 1.0000000000000002, math.nan, math.inf, -math.inf, 2**63),
    ]
)
DEEP = "[" * 100_000


def places(value, path=()):
    """The path of every value inside a value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def mutated(value, path, change):
    """The value with another at `path`; without it where `change` is `...`."""
    value = copy.deepcopy(value)
    if not path:
        return change
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if change is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = change
    return value


@st.composite
def rows_like(draw, rows, *, most=3):
    """A row with up to `most` values changed, taken out, put into another's place, or doubled as a list."""
    row = draw(st.sampled_from(rows))
    others = [value for other in rows for value in other.values()]
    for _ in range(draw(st.integers(0, most))):
        inner = sorted((path for path in places(row) if path), key=repr)
        if not inner:
            break
        path = draw(st.sampled_from(inner))
        taken = st.sampled_from(others) | st.just([_at(row, path)] * 2)
        row = mutated(row, path, draw(STRANGE | st.just(...) | taken))
    return row


def _at(value, path):
    for key in path:
        value = value[key]
    return value


@st.composite
def bytes_like(draw, rows):
    """A line of a file: JSON of a mutated row, mostly; or of something else, cut off, or in a broken encoding."""
    text = json.dumps(draw(rows_like(rows)), ensure_ascii=draw(st.booleans()))
    line = text.encode(errors=draw(st.sampled_from(["surrogatepass", "replace"])))
    match draw(st.integers(0, 15)):
        case 0:
            return line[: draw(st.integers(0, len(line)))]
        case 1:
            place = draw(st.integers(0, len(line)))
            return line[:place] + draw(st.binary(min_size=1, max_size=3)).replace(b"\n", b"") + line[place:]
        case 2:
            return draw(st.sampled_from([DEEP.encode(), b'{"a": ' * 5000, b'{"a": ' + b"9" * 5000 + b"}", b"\x00"]))
        case 3:
            return draw(st.sampled_from([b"null", b"3", b'"x"', b"[]", b"{}", b"", b" ", b"\xef\xbb\xbf" + line]))
        case 4:
            return text.encode("utf-16", "surrogatepass")
        case 5:
            return line[:-1] + b', "prompt": 1, "prompt": 2}'
    return line
