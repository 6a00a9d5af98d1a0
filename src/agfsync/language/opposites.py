"""The opposite of a yes/no question: the question whose true answer is no where that of the other is yes."""

import re

_IS_THERE = re.compile(r"(Is there|Are there) (?:an?|any) (.+)", re.IGNORECASE)


def oppose_question(text: str) -> str:
    """Return the opposite of an English yes/no question.

    Where it asks whether there is something, it asks whether there is none; any other is asked about its answer.

    >>> oppose_question("Is there a dog?"), oppose_question("Is the dog brown?")
    ('Is there no dog?', 'Is the answer to the question "Is the dog brown?" no?')
    """
    found = _IS_THERE.fullmatch(text.strip())
    return f"{found[1]} no {found[2]}" if found else f'Is the answer to the question "{text.strip()}" no?'
