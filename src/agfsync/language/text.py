"""When two texts are the same."""

import re

WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """`text` as its words in lower case: texts that differ in case, spacing or punctuation alone are the same."""
    return " ".join(WORD.findall(text.casefold()))
