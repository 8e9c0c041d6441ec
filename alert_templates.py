"""Voice alerts: texts that an operator wrote, with fields for what a request may put in, and nothing else."""

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

from config_file import ConfigFile, Where
from prompt_sets import PromptRule, by_tag, check_name, fill, placeholder_problems, text_problems, widening

MAX_FIELDS = 20
LONGEST_TEXT = 600  # characters
LARGEST_NUMBER = 10**9
LONGEST_NAME = 60  # characters
_FIELD = re.compile("[a-z][a-z0-9_]{0,31}")
_NUMBER = re.compile("-?[0-9]{1,10}")
_TIME = re.compile("([01][0-9]|2[0-3]):[0-5][0-9]")
_BESIDE_LETTERS = " '-\u200c\u200d"  # and the joiners, which names in Indian and Persian scripts need


class BadValues(Exception):
    """Values that a template does not take. `errors`: a field, or '' for all of them, and what is accepted."""

    def __init__(self, errors: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name} {message}".strip() for name, message in errors))
        self.errors = errors


def sealed_form(template: str, values: Mapping[str, str]) -> str:
    """What is kept of an alert, in the place of a code: `read_values` reads it."""
    return json.dumps([template, dict(values)], ensure_ascii=False)


def read_values(text: str) -> tuple[str, dict[str, str]]:
    """The name of a template, and its values."""
    template, values = json.loads(text)
    return template, values


@dataclass(frozen=True, slots=True)
class NumberField:
    min: int
    max: int

    @property
    def longest(self) -> int:
        return max(len(str(self.min)), len(str(self.max)))

    @property
    def accepted(self) -> str:
        return f"a whole number from {self.min} to {self.max}"

    def read(self, value: object) -> str | None:
        """As JSON number, or as text of ASCII digits."""
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and self.min <= value <= self.max:
            return str(value)
        return None


@dataclass(frozen=True, slots=True)
class TimeField:
    accepted: ClassVar[str] = "a time from 00:00 to 23:59"
    longest: ClassVar[int] = len("00:00")

    def read(self, value: object) -> str | None:
        return value if isinstance(value, str) and _TIME.fullmatch(value) else None


@dataclass(frozen=True, slots=True)
class NameField:
    max_length: int

    @property
    def longest(self) -> int:
        return self.max_length

    @property
    def accepted(self) -> str:
        return f"a name of up to {self.max_length} letters, spaces, ' and -"

    def read(self, value: object) -> str | None:
        """Composed, with single spaces. No digits: a name is no place for a code, or a number to call."""
        if not isinstance(value, str):
            return None
        name = " ".join(part for part in unicodedata.normalize("NFC", value).split(" ") if part)
        kinds = {unicodedata.category(one)[0] for one in name if one not in _BESIDE_LETTERS}
        return name if "L" in kinds and kinds <= {"L", "M"} and len(name) <= self.max_length else None


Field = NumberField | TimeField | NameField

_NUMBERS = range(-LARGEST_NUMBER, LARGEST_NUMBER + 1)
_OPTIONS: dict[str, tuple[Callable[..., Field], dict[str, range]]] = {
    "number": (NumberField, {"min": _NUMBERS, "max": _NUMBERS}),
    "time": (TimeField, {}),
    "name": (NameField, {"max_length": range(1, LONGEST_NAME + 1)}),
}
"""By the type that a file names: what it makes, and the options that it has to have."""


@dataclass(frozen=True, slots=True)
class AlertTemplate:
    """`texts` are by canonical language tag; `acknowledge`: the callee is asked for a key press."""

    name: str
    fields: Mapping[str, Field]
    texts: Mapping[str, str]
    acknowledge: bool = False

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.texts)

    def check(self, values: Mapping[str, object]) -> dict[str, str]:
        """The values as they are said. Raises: BadValues, with every field that is wrong."""
        errors = []
        if values.keys() - self.fields.keys():
            errors.append(("", f"may have these fields only: {', '.join(self.fields) or 'none'}"))
        said = {}
        for name, field in self.fields.items():
            text = field.read(values[name]) if name in values else None
            if text is None:
                errors.append((name, f"must be {field.accepted}" if name in values else "is required"))
            else:
                said[name] = text
        if errors:
            raise BadValues(errors)
        return said

    def has_text(self, language: str) -> bool:
        return any(tag in self.texts for tag in widening(language))

    def longest(self, language: str) -> int:
        """How many characters its text can have."""
        longest = {name: "0" * field.longest for name, field in self.fields.items()}
        return len(self.text(language, longest))

    def text(self, language: str, values: Mapping[str, str]) -> str:
        """What is said, with values that `check` gave. Raises: KeyError in a language that it has no text for."""
        tag = next((tag for tag in widening(language) if tag in self.texts), language)
        return fill(self.texts[tag], values)


def read_alert_templates(file: ConfigFile, languages: Collection[str]) -> dict[str, AlertTemplate]:
    """The file's templates; what is wrong is reported to the file."""
    templates = file.table(("alerts",), file.document.get("alerts", {}))
    return {name: _template(file, name, value, languages) for name, value in templates.items()}


def _template(file: ConfigFile, name: str, value: object, languages: Collection[str]) -> AlertTemplate:
    where: Where = ("alerts", name)
    check_name(file, where)
    table = file.table(where, value)
    file.refuse_other_keys(where, table, ("acknowledge", "fields", "texts"))
    acknowledge = table.get("acknowledge", False)
    if not isinstance(acknowledge, bool):
        file.report((*where, "acknowledge"), "must be true or false")
    fields_where = (*where, "fields")
    declared = file.table(fields_where, table.get("fields", {}))
    if len(declared) > MAX_FIELDS:
        file.report(fields_where, f"has {len(declared)} fields: at most {MAX_FIELDS}")
    texts = _texts(file, (*where, "texts"), table.get("texts", {}), declared, languages)
    fields = {}
    for field_name, options in declared.items():
        field = _field(file, (*fields_where, field_name), options)
        if field is not None:
            fields[field_name] = field
    return AlertTemplate(name, fields, texts, acknowledge is True)


def _texts(
    file: ConfigFile, where: Where, value: object, declared: Collection[str], languages: Collection[str]
) -> dict[str, str]:
    table = file.table(where, value)
    if not table:
        file.report(where, "must have a text in one language at least")
    rule = PromptRule(required=frozenset(), allowed=frozenset(declared))
    texts = {}
    for tag, place, text in by_tag(file, where, table, languages):
        if file.text(place, text) is None:
            continue
        texts[tag] = text
        for problem in (*text_problems(text, LONGEST_TEXT), *placeholder_problems(text, text, rule)):
            file.report(place, problem)
    for name in declared:
        if texts and not any(f"{{{name}}}" in text for text in texts.values()):
            file.report((*where[:-1], "fields", name), "is in no text of the template")
    return texts


def _field(file: ConfigFile, where: Where, value: object) -> Field | None:
    if not _FIELD.fullmatch(where[-1]):
        file.report(where, "has a name that is not 1 to 32 characters of a-z 0-9 _, a letter first")
    table = file.table(where, value)
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in _OPTIONS:
        file.report((*where, "type"), f"must be one of {', '.join(_OPTIONS)}")
        return None
    make, options = _OPTIONS[kind]
    file.refuse_other_keys(where, table, ("type", *options))
    bounds = {name: _bound(file, (*where, name), table.get(name), range_) for name, range_ in options.items()}
    field = make(**bounds)
    if isinstance(field, NumberField) and field.min > field.max:
        file.report(where, "has a min above its max")
    return field


def _bound(file: ConfigFile, where: Where, value: object, accepted: range) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value in accepted:
        return value
    file.report(where, f"must be a whole number from {accepted[0]} to {accepted[-1]}")
    return accepted[-1] if where[-1] != "min" else accepted[0]
