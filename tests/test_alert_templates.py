"""Alert templates: what a request may put into an operator's words, and what a file of them can have wrong."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import prompts_file
from alert_templates import (
    LARGEST_NUMBER,
    MAX_FIELDS,
    AlertTemplate,
    BadValues,
    Field,
    NameField,
    NumberField,
    TimeField,
)
from prompt_sets import known_prompts
from settings import BadSettings

KNOWN = known_prompts({"en": {}, "de": {}})
TEMPLATE = AlertTemplate(
    name="delivery",
    fields={"minutes": NumberField(0, 240), "at": TimeField(), "name": NameField(40)},
    texts={"en": "Hello {name}. Your parcel comes in {minutes} minutes, at {at}.", "de-AT": "Grüß Gott, {name}."},
)
VALUES = {"minutes": 15, "at": "14:05", "name": "Zoë"}


def load(folder: Path, text: str) -> dict[str, AlertTemplate]:
    path = folder / "a.toml"
    path.write_text(text, encoding="utf-8")
    return dict(prompts_file.load(str(path), KNOWN, "Acme").alerts)


def errors_of(values: dict[str, object]) -> list[tuple[str, str]]:
    with pytest.raises(BadValues) as bad:
        TEMPLATE.check(values)
    return bad.value.errors


def test_values_are_put_into_the_text_of_the_language() -> None:
    said = TEMPLATE.check(VALUES)
    assert said == {"minutes": "15", "at": "14:05", "name": "Zoë"}
    assert TEMPLATE.text("en-GB", said) == "Hello Zoë. Your parcel comes in 15 minutes, at 14:05."
    assert TEMPLATE.text("de-at", said) == "Grüß Gott, Zoë."
    assert TEMPLATE.languages == ("en", "de-AT")
    with pytest.raises(KeyError):
        TEMPLATE.text("de-DE", said)


def test_every_wrong_field_is_named_with_what_is_accepted_and_without_its_value() -> None:
    assert errors_of({"minutes": 241, "at": "24:00", "name": "R2D2"}) == [
        ("minutes", "must be a whole number from 0 to 240"),
        ("at", "must be a time from 00:00 to 23:59"),
        ("name", "must be a name of up to 40 letters, spaces, ' and -"),
    ]
    assert errors_of({"at": "14:05", "name": "Zoë"}) == [("minutes", "is required")]
    assert errors_of({**VALUES, "<secret>": 1}) == [("", "may have these fields only: minutes, at, name")]
    with pytest.raises(BadValues, match=r"^may have these fields only: none$"):
        AlertTemplate("plain", {}, {"en": "Come home."}).check({"a": 1})


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (NumberField(-5, 5), -5, "-5"),
        (NumberField(0, 100), "007", "7"),
        (NumberField(-5, 5), "-0", "0"),
        (NumberField(0, LARGEST_NUMBER), "1000000000", "1000000000"),
        (NumberField(0, 5), 6, None),
        (NumberField(0, 5), -1, None),
        (NumberField(0, 5), True, None),
        (NumberField(0, 5), 1.0, None),
        (NumberField(0, 5), "1.0", None),
        (NumberField(0, 5), "+1", None),
        (NumberField(0, 5), " 1", None),
        (NumberField(0, 5), "1\n", None),
        (NumberField(0, 5), "٣", None),
        (NumberField(0, 5), "1_0", None),
        (NumberField(0, 5), "", None),
        (NumberField(0, 5), "9" * 5000, None),
        (NumberField(0, 5), 10**4000, None),
        (NumberField(0, 5), None, None),
        (NumberField(0, 5), [1], None),
        (TimeField(), "00:00", "00:00"),
        (TimeField(), "23:59", "23:59"),
        (TimeField(), "24:00", None),
        (TimeField(), "9:05", None),
        (TimeField(), "12:60", None),
        (TimeField(), "12:05\n", None),
        (TimeField(), "12:0٥", None),
        (TimeField(), 1205, None),
        (NameField(40), "Anne-Marie d'Arc", "Anne-Marie d'Arc"),
        (NameField(40), "  Zoe\u0308   Li ", "Zoë Li"),
        (NameField(40), "ศิริพร", "ศิริพร"),
        (NameField(40), "ශ්\u200dරීමාල්", "ශ්\u200dරීමාල්"),
        (NameField(40), "山田太郎", "山田太郎"),
        (NameField(3), "Zoe\u0308", "Zoë"),
        (NameField(3), "Zoey", None),
        (NameField(40), "", None),
        (NameField(40), " -'", None),
        (NameField(40), "\u0308", None),
        (NameField(40), "Ann 2", None),
        (NameField(40), "Ann Ⅱ", None),
        (NameField(40), "Ann²", None),
        (NameField(40), "Ann\n", None),
        (NameField(40), "Ann\u00a0Lee", None),
        (NameField(40), "Ann. Call", None),
        (NameField(40), "<b>Ann</b>", None),
        (NameField(40), "{minutes}", None),
        (NameField(40), "Ann\u202e", None),
        (NameField(40), 5, None),
    ],
)
def test_what_a_field_takes(field: Field, value: object, said: str | None) -> None:
    assert field.read(value) == said


def wrong_fields(values: dict[str, object]) -> set[str]:
    try:
        TEMPLATE.check(values)
    except BadValues as error:
        return {field for field, _ in error.errors}
    return set()


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from(["minutes", "at", "name"]) | st.text(), ANYTHING))
def test_no_values_can_break_the_check(values: dict[str, object]) -> None:
    assert wrong_fields(values) <= {"", *TEMPLATE.fields}


@given(st.text(max_size=45))
@example("\u0149")
def test_a_name_never_has_digits_markup_or_more_than_it_may(text: str) -> None:
    said = NameField(40).read(text)
    if said is not None:
        assert 0 < len(said) <= 40
        assert not set(said) & set('<>&{}[]"\\/.,:;!?*#+@$%\n\t')
        assert not any(unicodedata.category(one)[0] in "NCZPS" for one in said if one not in " '-\u200c\u200d")
        assert NameField(40).read(said) == said


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(-400, 400), st.booleans())
def test_a_number_is_taken_within_its_bounds_only(first: int, second: int, value: int, as_text: bool) -> None:
    field = NumberField(min(first, second), max(first, second))
    said = field.read(str(value) if as_text else value)
    assert said == (str(value) if field.min <= value <= field.max else None)


@given(st.integers(0, 99), st.integers(0, 99))
def test_a_time_is_one_of_a_day(hour: int, minute: int) -> None:
    text = f"{hour:02}:{minute:02}"
    assert TimeField().read(text) == (text if hour < 24 and minute < 60 else None)


def test_a_file_of_templates(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        [alerts.delivery]
        acknowledge = true
        [alerts.delivery.fields]
        minutes = { type = "number", min = 0, max = 240 }
        at = { type = "time" }
        name = { type = "name", max_length = 40 }
        [alerts.delivery.texts]
        en = "Hello {name}. Your parcel comes in {minutes} minutes, at {at}."
        de-at = "Grüß Gott, {name}."
        [alerts.plain.texts]
        en = "Come home."
        """,
    )
    assert found == {
        "delivery": AlertTemplate("delivery", TEMPLATE.fields, TEMPLATE.texts, acknowledge=True),
        "plain": AlertTemplate("plain", {}, {"en": "Come home."}),
    }


TEXT = "[alerts.a.texts]\nen = 'Hello {x}.'\n"


def field(options: str, name: str = "x") -> str:
    return f"[alerts.a.fields]\n{name} = {{ {options} }}\n{TEXT}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alerts = 1", "line 1: alerts must be a table"),
        ("[alerts]\na = 1", "line 2: alerts.a must be a table"),
        ("[alerts.A.texts]\nen = 'Hello.'", "line 1: alerts.A has a name that is not 1 to 32 characters of a-z"),
        ("[alerts.a]\nack = true\ntexts.en = 'a'", "line 2: alerts.a.ack is not known: use acknowledge, fields"),
        ("[alerts.a]\nacknowledge = 1\ntexts.en = 'a'", "line 2: alerts.a.acknowledge must be true or false"),
        ("[alerts.a]", "line 1: alerts.a.texts must have a text in one language at least"),
        ("[alerts.a]\ntexts = 'a'", "line 2: alerts.a.texts must be a table"),
        ("[alerts.a.texts]\nxx = 'a'", "line 2: alerts.a.texts.xx is not known: use a language of en, de"),
        ("[alerts.a.texts]\nen = 1", "line 2: alerts.a.texts.en must be text in quotes"),
        ("[alerts.a.texts]\nen = ''", "line 2: alerts.a.texts.en says nothing"),
        (f"[alerts.a.texts]\nen = '{'a' * 601}'", "line 2: alerts.a.texts.en has 601 characters: at most 600"),
        ("[alerts.a.texts]\nen = \"a\\tb\"", "line 2: alerts.a.texts.en has characters that cannot be said: U+"),
        ("[alerts.a.texts]\nen = '<speak>a</speak>'", "line 2: alerts.a.texts.en has < or > in plain text"),
        ("[alerts.a.texts]\nen = '{x}'", "line 2: alerts.a.texts.en has {x}: it may have no placeholders"),
        ("[alerts.a.texts]\nen = '{x'", "line 2: alerts.a.texts.en has a { or } that belongs to no placeholder"),
        (
            "[alerts.a]\nfields.y.type = 'time'\ntexts.en = 'Hello.'\ntexts.de = 'Hallo.'",
            "line 2: alerts.a.fields.y is in no text of the template",
        ),
        ("[alerts.a]\nfields = 1\ntexts.en = 'a'", "line 2: alerts.a.fields must be a table"),
        (field("type = 'number', max = 1"), "line 2: alerts.a.fields.x.min must be a whole number from -100000"),
        (field("type = 'number', min = 0, max = 1000000001"), "line 2: alerts.a.fields.x.max must be a whole"),
        (field("type = 'number', min = 0, max = true"), "line 2: alerts.a.fields.x.max must be a whole number"),
        (field("type = 'number', min = 2, max = 1"), "line 2: alerts.a.fields.x has a min above its max"),
        (field("type = 'name'"), "line 2: alerts.a.fields.x.max_length must be a whole number from 1 to 60"),
        (field("type = 'name', max_length = 61"), "line 2: alerts.a.fields.x.max_length must be a whole number"),
        (field("type = 'name', max_length = 0"), "line 2: alerts.a.fields.x.max_length must be a whole number"),
        (field("type = 'time', min = 1"), "line 2: alerts.a.fields.x.min is not known: use type"),
        (field("type = 'text'"), "line 2: alerts.a.fields.x.type must be one of number, time, name"),
        (field("type = ['time']"), "line 2: alerts.a.fields.x.type must be one of number, time, name"),
        (field("min = 1"), "line 2: alerts.a.fields.x.type must be one of number, time, name"),
        (f"[alerts.a.fields]\nx = 'time'\n{TEXT}", "line 2: alerts.a.fields.x must be a table"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_template_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(BadSettings) as bad:
        load(tmp_path, text)
    assert any(line.split("a.toml, ")[1].startswith(problem) for line in bad.value.problems), bad.value.problems
    assert len(bad.value.problems) <= 2


def test_names_of_fields_can_be_written_in_a_text(tmp_path: Path) -> None:
    with pytest.raises(
        BadSettings, match=r"alerts\.a\.fields\.X has a name that is not 1 to 32 characters of a-z 0-9 _"
    ):
        load(tmp_path, field("type = 'time'", name="X"))


@pytest.mark.parametrize("count", [MAX_FIELDS, MAX_FIELDS + 1])
def test_fields_are_not_many(tmp_path: Path, count: int) -> None:
    names = [f"f{number}" for number in range(count)]
    fields = "\n".join(f"{name}.type = 'time'" for name in names)
    said = " ".join(f"{{{name}}}" for name in names)
    text = f"[alerts.a.fields]\n{fields}\n[alerts.a.texts]\nen = '{said}'"
    if count <= MAX_FIELDS:
        assert len(load(tmp_path, text)["a"].fields) == count
    else:
        with pytest.raises(BadSettings, match=r"line 1: alerts\.a\.fields has 21 fields: at most 20"):
            load(tmp_path, text)
