"""The subject of a fact that names none: a given one, or the prompt's longest capitalised span."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from lightning.pytorch.utilities import rank_zero_info

from ..records import EditRequest
from ..text.files import lines
from .subjects import names_subject, subject_span

WORD = re.compile(r"[^\W_](?:[\w.&'\u2019-]*\w)?")
BETWEEN = {  # may stand inside a name: the Bank of England, Ludwig van Beethoven
    *("of", "the", "and", "de", "da", "del", "della", "di", "do", "dos", "du"),
    *("la", "le", "les", "der", "den", "des", "von", "van", "zu", "al", "el", "bin", "ibn", "y"),
}
OPENING = {  # begin a sentence or a question in capitals and are no name
    *("a", "an", "the", "this", "that", "these", "those", "my", "our", "your", "his", "her", "its"),
    *("what", "which", "who", "whom", "whose", "where", "when", "why", "how", "is", "are", "was"),
    *("were", "do", "does", "did", "has", "have", "had", "can", "could", "will", "would", "in"),
    *("on", "at", "of", "to", "for", "from", "by", "with", "as", "if", "name", "tell", "give"),
    *("it", "he", "she", "they", "we", "you", "there", "and", "or", "but", "not", "one", "most"),
}


def with_subjects(
    requests: Sequence[EditRequest], given: str | Iterable[str] | None = None
) -> list[EditRequest]:
    """The requests, each with a subject where its prompt shows one; reports what was taken.

    Args:
        requests: those that have a subject stay as they are.
        given: possible subjects, or a text file with one per line; the longest one in a prompt is
            taken. If null, the longest capitalised span of each prompt.
    """
    names = None if given is None else list(_listed(given))
    told, found = [], []
    for request in requests:
        span = None if request.subject else found_span(request.prompt, names)
        if span is not None:
            start, end = span
            subject = request.prompt[start:end]
            told.append(f"{subject!r} ({request.prompt!r})")
            slotted = f"{request.prompt[:start]}{{}}{request.prompt[end:]}"
            request = request._replace(prompt=slotted, subject=subject)
        found.append(request)
    if told:
        rest = f" and {len(told) - 10} more" if len(told) > 10 else ""
        rank_zero_info(f"Subjects taken from the prompts: {', '.join(told[:10])}{rest}")
    return found


def found_span(prompt: str, names: Sequence[str] | None) -> tuple[int, int] | None:
    """Start and end of a prompt's subject, or None.

    Args:
        prompt: without a slot.
        names: the only possible subjects; null allows any capitalised span.
    """
    if names is None:
        return capitalised_span(prompt)
    held = [name for name in names if names_subject(prompt, name)]
    return subject_span(prompt, max(held, key=len)) if held else None


def capitalised_span(prompt: str) -> tuple[int, int] | None:
    """Start and end of the longest capitalised span of a prompt, or None.

    Lower-case words such as *of* may stand between capitalised ones. A single word that begins the
    prompt, capitalised in any case, counts only if there is no other span.
    """
    spans = list(_spans(prompt))
    inner = [span for start, *span in spans if not start]
    return max(
        ((s, e) for s, e in inner or (span for _, *span in spans)),
        key=lambda span: span[1] - span[0],
        default=None,
    )


def _spans(prompt: str) -> Iterator[tuple[bool, int, int]]:
    """Capitalised spans, each with whether it is a single word that begins the prompt."""
    words = list(WORD.finditer(prompt))
    for named, group in groupby(_marked(words, prompt), key=lambda pair: pair[1]):
        part = [word for word, _ in group]
        while part and not _is_name(part[-1][0]):
            part.pop()
        while part and _opens(part):
            part.pop(0)
        if named and part:
            alone = len(part) == 1 and part[0] is words[0]
            yield alone, part[0].start(), part[-1].end()


def _marked(words: Sequence[re.Match[str]], prompt: str) -> Iterator[tuple[re.Match[str], int]]:
    """Each word with the number of the span that it belongs to; 0 belongs to none."""
    number, inside, end = 0, False, 0
    for word in words:
        joined = not re.search(r"[^\s\"“”]", prompt[end : word.start()])
        name = _is_name(word[0])
        number += name and not (inside and joined)
        inside = name or (inside and joined and word[0].lower() in BETWEEN)
        end = word.end()
        yield word, number if inside else 0


def _is_name(word: str) -> bool:
    return word.isdigit() or any(letter.isupper() for letter in word)


def _opens(part: Sequence[re.Match[str]]) -> bool:
    """Whether a span's first word only begins the sentence; *The* before a name is part of it."""
    word = part[0][0]
    if word.lower() not in OPENING:
        return word.isdigit() and len(part) == 1
    return not (word == "The" and len(part) > 1 and _is_name(part[1][0]))


def _listed(given: str | Iterable[str]) -> Iterator[str]:
    """The given subjects, of a file or a list."""
    found = (line for _, line in lines(given)) if isinstance(given, str) else given
    yield from filter(None, map(str.strip, found))
