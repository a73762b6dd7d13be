"""Text that data and errors bring, made fit to be shown: any text in; a terminal's, a page's or Markdown's text out."""

import re

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""what a terminal obeys, what HTML or UTF-8 cannot hold, and what turns the text around it to another direction"""

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
"""what the package raises where the user can mend it; anything else is a fault of ours and shows its traceback"""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9]+(?:[ _/-][A-Za-z0-9]+)*")


def clean(text: str) -> str:
    """Text without control characters and lone surrogates, which are shown by their names.

    >>> clean("a\\x00b\\ud800 \\u202e")
    'a⟨U+0000⟩b⟨U+D800⟩ ⟨U+202E⟩'
    """
    return CONTROLS.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """
    >>> one_line("a subset\\n# with a heading")
    'a subset\\\\n# with a heading'
    """
    return "\\n".join(clean(text).splitlines())


def error_text(error: BaseException) -> str:
    """What the command line prints of an error.

    >>> error_text(ValueError("no file.\\n")), error_text(TypeError())
    ('error: no file.', 'error: TypeError')
    """
    message = "\n".join(line for line in str(error).splitlines() if line.strip())
    return f"error: {clean(message) or type(error).__name__}"


def markdown_name(text: str) -> str:
    """A name of the data as Markdown shows it letter by letter, in a table too: links, headings and HTML stay text.

    >>> markdown_name("mean_reward"), markdown_name("[x](https://a.b)|<b>")
    ('mean_reward', '`[x](https://a.b)\\\\|<b>`')
    """
    if _PLAIN_NAME.fullmatch(text):
        return text
    return "`" + one_line(text).replace("`", "'").replace("|", "\\|") + "`"
