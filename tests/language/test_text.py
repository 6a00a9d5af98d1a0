from agfsync.language.text import normalised


def test_case_spacing_and_punctuation_make_no_difference() -> None:
    assert normalised("  A  red, STAR. ") == normalised("a red star") == "a red star"
    assert normalised("a red star") != normalised("a red square")
    assert normalised("?!") == ""
