"""The separator between a prompt and its continuation."""

import re
from unicodedata import category

# sentence marks and what closes, unless a word begins with them (.NET); wide marks; 's; a hyphen
ATTACHED = re.compile(
    r"[,.;:!?%)\]}\u2026\u201d\u00bb\u203a]++(?!\w)"
    r"|[\u3001-\u303f\uff01-\uff0f\uff1a-\uff20]"
    r"|['\u2019](?:s|re|ve|ll|d|m|t)\b"
    r"|-(?=[^\W\d_])"
)
# Thai, Lao, Tibetan, Burmese, Khmer; Chinese and Japanese with their punctuation, also full-width
UNSPACED = re.compile(
    r"[\u0e00-\u109f\u1780-\u17ff\u3000-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]"
)


def separator(prompt: str, target: str) -> str:
    """One blank, or nothing.

    Nothing precedes a target if the prompt ends in white space (the two are then joined as
    written), in an opening bracket or quote, or in a script without blanks; nor if the target
    begins with punctuation that attaches to the previous word.

    Args:
        prompt: the text before the target.
        target: without surrounding white space.
    """
    last = prompt[-1:]
    attached = last.isspace() or _opens(prompt) or UNSPACED.match(last) or ATTACHED.match(target)
    return "" if attached else " "


def _opens(prompt: str) -> bool:
    """Whether a prompt ends in an opening bracket, or in a quote that does not follow a word."""
    if not prompt:
        return False
    if _is_quote(prompt[-1]):
        return len(prompt) == 1 or prompt[-2].isspace() or category(prompt[-2]) == "Ps"
    return category(prompt[-1]) == "Ps"


def _is_quote(character: str) -> bool:
    return character in "\"'" or category(character) in ("Pi", "Pf")
