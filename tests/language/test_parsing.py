from agfsync.language.parsing import Syntax


def test_pairs_that_share_a_word_are_one_group() -> None:
    words = [(n, n + 1) for n in range(9)]
    pairs = [(0, 1), (2, 3), (4, 1), (5, 6), (7, 3), (7, 6), (0, 1)]
    groups = Syntax(words, pairs).groups
    assert [sorted(group) for group in groups] == [[(0, 1), (4, 1)], [(2, 3), (5, 6), (7, 3), (7, 6)]]
    assert Syntax(words).groups == []
