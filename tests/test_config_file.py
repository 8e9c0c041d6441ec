"""A TOML file of the operator's: problems are told with the place where they stand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_file import ConfigFile, Spot, read_config
from settings import BadSettings


def reported(text: str, where: str, spot: Spot | None = None) -> str:
    file = ConfigFile("PROMPTS_FILE a.toml", text)
    file.report(tuple(where.split(".")), "is wrong", spot)
    (problem,) = file.problems
    return problem.removeprefix("PROMPTS_FILE a.toml")


FILE = """\
# goodbye = "no key"
[prompts.acme] # a comment
app_name = "Acme"
[prompts.acme.en]
greeting = '''
[prompts.acme.de]
goodbye = "no key"
'''
 goodbye = "Bye"
[alerts.delivery.fields]
minutes = { type = "number", min = 0 }
name.type = "name"
"a \\" key" = 1
[ other . "two words" ]
'single quotes' = 1
"""


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("prompts", 2),
        ("prompts.acme", 2),
        ("prompts.acme.app_name", 3),
        ("prompts.acme.voice", 2),
        ("prompts.acme.en", 4),
        ("prompts.acme.en.greeting", 5),
        ("prompts.acme.en.goodbye", 9),
        ("prompts.acme.de.goodbye", 2),
        ("alerts", 10),
        ("alerts.delivery", 10),
        ("alerts.delivery.fields.minutes.max", 11),
        ("alerts.delivery.fields.name.type", 12),
        ("alerts.delivery.texts", 10),
        ("other.two words.single quotes", 15),
    ],
)
def test_a_problem_has_the_line_of_its_key_or_of_the_table_around_it(where: str, line: int) -> None:
    assert reported(FILE, where).startswith(f", line {line}: ")


def test_what_stands_nowhere_has_no_line() -> None:
    assert reported("a = 1", "b") == ": b is wrong"


def test_a_problem_is_one_line_whatever_its_keys_hold() -> None:
    file = ConfigFile("X a.toml", "")
    file.report(("a", "two\nlines\u2028"), "is wrong")
    assert file.problems == [r'X a.toml: a."two\nlines\u2028" is wrong']


@pytest.mark.parametrize(
    ("literal", "place"),
    [
        pytest.param('"a <q/>"', ", line 2, column 12: a.text is wrong", id="quotes"),
        pytest.param("'a <q/>'", ", line 2, column 12: a.text is wrong", id="single quotes"),
        pytest.param('"""a <q/>"""', ", line 2, column 14: a.text is wrong", id="three quotes"),
        pytest.param('"""\na <q/>"""', ", line 3, column 3: a.text is wrong", id="three quotes, next line"),
        pytest.param("'''\na <q/>'''", ", line 3, column 3: a.text is wrong", id="three single quotes"),
        pytest.param('"\\u0061 <q/>"', ", line 2: a.text (line 1, column 3 of its text) is wrong", id="escape"),
        pytest.param('"""\\\n a <q/>"""', ", line 2: a.text (line 1, column 3 of its text) is wrong", id="joined"),
    ],
)
def test_a_place_in_a_text_is_told_as_one_of_the_file_where_that_is_certain(literal: str, place: str) -> None:
    assert reported(f"[a]\n text = {literal} # q\n", "a.text", Spot(1, 3)) == place


def test_what_only_looks_like_a_key_does_no_harm() -> None:
    text = r"""
"a\"= b" = 1
c = ['''
d = "\q"
''']
e = 2
"""
    assert reported(text, "e") == ", line 6: e is wrong"


def test_in_an_inline_table_it_is_told_as_one_of_the_text() -> None:
    text = 'a = { text = "a <q/>" }'
    assert reported(text, "a.text", Spot(1, 3)) == ", line 1: a.text (line 1, column 3 of its text) is wrong"


LINES = st.text(
    st.characters(exclude_characters="#'\"\\@", exclude_categories=["C", "Z"]) | st.just(" "), max_size=9
)


@given(
    before=st.lists(LINES, max_size=3),
    after=LINES,
    quotes=st.sampled_from(['"', "'", '"""', "'''"]),
    newline=st.sampled_from(["\n", "\r\n"]),
)
def test_the_place_in_the_file_is_the_right_one(before: list[str], after: str, quotes: str, newline: str) -> None:
    if len(quotes) == 1:
        before = ["".join(before)]
    text = "\n".join([*before, ""] if len(quotes) == 3 else before) + "@" + after
    spot = Spot(text.count("\n") + 1, len(text.partition("@")[0].rpartition("\n")[2]) + 1)
    whole = f"[a]\nother = 1\ntext = {quotes}{text}{quotes}\n".replace("\n", newline)
    if text.startswith("\n"):  # TOML drops it
        spot = Spot(spot.line - 1, spot.column)
    above, _, _ = whole.replace("\r\n", "\n").partition("@")
    line, column = above.count("\n") + 1, len(above.rpartition("\n")[2]) + 1
    assert reported(whole, "a.text", spot) == f", line {line}, column {column}: a.text is wrong"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"a = 1\nb = \n", "is not TOML: Invalid value (at line 2, column 5)", id="no TOML"),
        pytest.param(
            b"a = 1\na = 2\n", "is not TOML: Cannot overwrite a value (at line 2, column 6)", id="key twice"
        ),
        pytest.param(b"a = " + b"[" * 5000, "is not TOML: ", id="deep"),
        pytest.param("a = 'ä'".encode("latin-1"), "is not UTF-8: save it again in that encoding", id="Latin-1"),
    ],
)
def test_a_file_that_cannot_be_understood_is_one_problem(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(BadSettings) as bad:
        read_config("PROMPTS_FILE", str(path))
    (line,) = bad.value.problems
    assert line.startswith(f"PROMPTS_FILE {path} {problem}")


def test_a_file_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"PROMPTS_FILE .*none\.toml cannot be read: No such file"):
        read_config("PROMPTS_FILE", str(tmp_path / "none.toml"))
    with pytest.raises(BadSettings, match="cannot be read: Is a directory"):
        read_config("PROMPTS_FILE", str(tmp_path))


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_config("PROMPTS_FILE", str(tmp_path / "a.toml")).document == {"a": 1}
