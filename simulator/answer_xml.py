"""Answer documents, read strictly: an unknown element or attribute fails the call, with a reason.

`SHARED_ELEMENTS` are those that Vobiz and Plivo document alike, on https://docs.vobiz.ai/xml (speak, play, wait,
redirect, hangup) and https://www.plivo.com/docs/voice/xml/overview; a carrier adds its own or replaces some.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from xml.etree import ElementTree

MAX_DOCUMENT_BYTES = 100 * 1024
SPEAK_LANGUAGES = frozenset(
    {"da-DK", "nl-NL", "en-AU", "en-GB", "en-US", "fr-FR", "fr-CA", "de-DE", "it-IT", "pl-PL", "pt-PT", "pt-BR"}
    | {"ru-RU", "es-ES", "es-US", "sv-SE"}
)
_SSML_TAGS = frozenset({"break", "emphasis", "lang", "p", "s", "phoneme", "prosody", "say-as", "sub", "w"})


class BadXml(Exception):
    """The document would end a real call with 8011 to 8014; the message says why."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a document. `text` is its own text; SSML inside Speak is flattened to what is said."""

    name: str
    attributes: Mapping[str, str]
    text: str
    children: tuple["Element", ...] = ()


Document = tuple[Element, ...]
Check = Callable[[str], bool]


class Content(Enum):
    """What an element may hold beside its children."""

    NOTHING = auto()
    URL = auto()
    SPEECH = auto()


@dataclass(frozen=True, slots=True)
class ElementRules:
    """What an element may have: checks by attribute, names of children."""

    attributes: Mapping[str, Check] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    children: frozenset[str] = frozenset()
    content: Content = Content.NOTHING


Dialect = Mapping[str, ElementRules]
"""The elements that a carrier knows, `Response` among them."""


def one_of(*values: str) -> Check:
    return lambda value: value in values


def whole_number(lowest: int, highest: int = 10**9) -> Check:
    return lambda value: re.fullmatch("[0-9]{1,9}", value) is not None and lowest <= int(value) <= highest


def is_voice(value: str) -> bool:
    return value in ("WOMAN", "MAN") or re.fullmatch(r"Polly\.[A-Za-z]+", value) is not None


def is_url(value: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>]+", value) is not None


def is_seconds_or_auto(value: str) -> bool:
    return value == "auto" or whole_number(2, 10)(value)


def is_anything(_: str) -> bool:
    return True


BOOLEAN = one_of("true", "false")
METHOD = one_of("GET", "POST")
SHARED_ELEMENTS: Dialect = {
    "Speak": ElementRules(
        {"voice": is_voice, "language": SPEAK_LANGUAGES.__contains__, "loop": whole_number(0)},
        content=Content.SPEECH,
    ),
    "Play": ElementRules({"loop": whole_number(0)}, content=Content.URL),
    "Wait": ElementRules(
        {"length": whole_number(1), "silence": BOOLEAN, "minSilence": whole_number(1), "beep": BOOLEAN}
    ),
    "Redirect": ElementRules({"method": METHOD}, content=Content.URL),
    "Hangup": ElementRules({"reason": one_of("rejected", "busy"), "schedule": whole_number(1)}),
}


def read(body: bytes, dialect: Dialect) -> Document:
    """The elements of a document, in order. Raises: BadXml."""
    if len(body) > MAX_DOCUMENT_BYTES:
        raise BadXml("the document is larger than 100 KB")
    if b"<!DOCTYPE" in body:
        raise BadXml("the document has a DOCTYPE")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - our own service's answer, bounded, without a DTD
    except ElementTree.ParseError as error:
        raise BadXml(f"the document is not well-formed: {error}") from None
    if root.tag != "Response":
        raise BadXml(f"the root element is {root.tag}, not Response")
    return _read_element(root, dialect).children


def _read_element(node: ElementTree.Element, dialect: Dialect) -> Element:
    rules = dialect.get(node.tag)
    if rules is None:
        raise BadXml(f"unknown element {node.tag}")
    _check_attributes(node, rules)
    if rules.content is Content.SPEECH:
        return Element(node.tag, node.attrib, _spoken_text(node))
    children = tuple(_read_child(node, child, dialect) for child in node)
    text = (node.text or "").strip()
    _check_text(node.tag, text, rules)
    return Element(node.tag, node.attrib, text, children)


def _check_attributes(node: ElementTree.Element, rules: ElementRules) -> None:
    for name, value in node.attrib.items():
        if name not in rules.attributes:
            raise BadXml(f"unknown attribute {name} of {node.tag}")
        if not rules.attributes[name](value):
            raise BadXml(f"bad value of attribute {name} of {node.tag}")
    for name in rules.required:
        if name not in node.attrib:
            raise BadXml(f"{node.tag} has no {name}")


def _read_child(node: ElementTree.Element, child: ElementTree.Element, dialect: Dialect) -> Element:
    if (child.tail or "").strip():
        raise BadXml(f"stray text in {node.tag}")
    if child.tag in dialect and child.tag not in dialect[node.tag].children:
        raise BadXml(f"{child.tag} is not allowed in {node.tag}")
    return _read_element(child, dialect)


def _check_text(name: str, text: str, rules: ElementRules) -> None:
    takes_url = rules.content is Content.URL
    if takes_url and not is_url(text):
        raise BadXml(f"{name} needs an absolute URL")
    if text and not takes_url:
        raise BadXml(f"{name} takes no text")


def _spoken_text(node: ElementTree.Element) -> str:
    for child in node.iter():
        if child is not node and child.tag not in _SSML_TAGS:
            raise BadXml(f"{child.tag} is not allowed in {node.tag}")
    text = " ".join("".join(node.itertext()).split())
    if not text:
        raise BadXml(f"{node.tag} has nothing to say")
    return text
