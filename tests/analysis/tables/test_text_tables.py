"""Tables as text: marks of footnotes."""

from analysis.tables.text_tables import footnote_letter


def test_marks_go_on_after_z():
    assert [footnote_letter(i) for i in (0, 25, 26, 27, 52)] == ["a", "z", "aa", "ab", "ba"]
