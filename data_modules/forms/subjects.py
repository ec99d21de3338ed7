"""The position of the subject in a prompt."""

import re
from unicodedata import normalize


def subject_span(prompt: str, subject: str) -> tuple[int, int] | None:
    """Start and end of a subject's last occurrence in a prompt, or None.

    Whole words take precedence over parts of words, equal case over different case. If the two
    encode an accent differently, as one character or two, they are compared in Unicode's NFC.
    """
    return _span(prompt, subject) or _composed_span(prompt, subject)


def names_subject(prompt: str, subject: str) -> bool:
    """Whether a prompt contains the subject as a whole word, in the same case."""
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt) is not None


def _span(prompt: str, subject: str) -> tuple[int, int] | None:
    part = re.escape(subject)
    for pattern in (rf"(?<!\w){part}(?!\w)", part):
        for flags in (re.NOFLAG, re.IGNORECASE):
            # the greedy start finds the last occurrence, even if occurrences overlap
            found = re.match(rf"(?s:.*)({pattern})", prompt, flags)
            if found:
                return found.span(1)
    return None


def _composed_span(prompt: str, subject: str) -> tuple[int, int] | None:
    """The span in the original prompt of a match in its composed form."""
    composed = normalize("NFC", prompt)
    found = _span(composed, normalize("NFC", subject))
    if found is None:
        return None
    parts = ((prompt[:at], prompt[at:]) for at in range(len(prompt) + 1))
    place = {  # of each character's end in the composed prompt, unless composing crosses it
        len(normalize("NFC", left)): len(left)
        for left, right in parts
        if normalize("NFC", left) + normalize("NFC", right) == composed
    }
    start, end = (place.get(at) for at in found)
    return None if start is None or end is None else (start, end)
