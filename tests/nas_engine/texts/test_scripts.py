"""Scripts of texts, by their letters."""

from nas_engine.texts.scripts import scripts_of


def test_letters_are_counted_by_script_and_nothing_else_is() -> None:
    assert scripts_of(["abc 123 !", "déf"]) == {"Latin": 1.0}
    assert scripts_of(["abcd", "где", "你"]) == {"Latin": 0.5, "Cyrillic": 0.375, "CJK": 0.125}
    assert scripts_of(["12 + 3", ""]) == {}
    assert list(scripts_of(["ab" * 999 + "я"])) == ["Latin"]
