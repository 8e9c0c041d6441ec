"""Vobiz's answer documents, read strictly: an unknown element or attribute fails the call, with a reason.

Documented on https://docs.vobiz.ai/xml (speak, play, wait, gather, redirect, hangup).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


Check = Callable[[str], bool]


def _one_of(*values: str) -> Check:
    return lambda value: value in values


def _whole_number(lowest: int, highest: int = 10**9) -> Check:
    return lambda value: re.fullmatch("[0-9]{1,9}", value) is not None and lowest <= int(value) <= highest


def _voice(value: str) -> bool:
    return value in ("WOMAN", "MAN") or re.fullmatch(r"Polly\.[A-Za-z]+", value) is not None


def _url(value: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>]+", value) is not None


def _seconds_or_auto(value: str) -> bool:
    return value == "auto" or _whole_number(2, 10)(value)


def _anything(_: str) -> bool:
    return True


_BOOLEAN = _one_of("true", "false")
_METHOD = _one_of("GET", "POST")

_ATTRIBUTES: dict[str, dict[str, Check]] = {
    "Response": {},
    "Speak": {"voice": _voice, "language": SPEAK_LANGUAGES.__contains__, "loop": _whole_number(0)},
    "Play": {"loop": _whole_number(0)},
    "Wait": {"length": _whole_number(1), "silence": _BOOLEAN, "minSilence": _whole_number(1), "beep": _BOOLEAN},
    "Gather": {
        "action": _url,
        "method": _METHOD,
        "inputType": _one_of("dtmf", "speech", "dtmf speech"),
        "executionTimeout": _whole_number(5, 60),
        "digitEndTimeout": _seconds_or_auto,
        "speechEndTimeout": _seconds_or_auto,
        "finishOnKey": lambda value: re.fullmatch(r"[0-9*#]?|none", value) is not None,
        "numDigits": _whole_number(1, 32),
        "speechModel": _one_of("default", "command_and_search", "phone_call"),
        "hints": _anything,
        "language": _anything,
        "interimSpeechResultsCallback": _url,
        "interimSpeechResultsCallbackMethod": _METHOD,
        "log": _BOOLEAN,
        "redirect": _BOOLEAN,
        "profanityFilter": _BOOLEAN,
    },
    "Redirect": {"method": _METHOD},
    "Hangup": {"reason": _one_of("rejected", "busy"), "schedule": _whole_number(1)},
}
_CHILDREN = {
    "Response": frozenset({"Speak", "Play", "Wait", "Gather", "Redirect", "Hangup"}),
    "Gather": frozenset({"Speak", "Play"}),
}
_REQUIRED = {"Gather": ("action",)}


def read(body: bytes) -> tuple[Element, ...]:
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
    return _read_element(root).children


def _read_element(node: ElementTree.Element) -> Element:
    known = _ATTRIBUTES.get(node.tag)
    if known is None:
        raise BadXml(f"unknown element {node.tag}")
    for name, value in node.attrib.items():
        if name not in known:
            raise BadXml(f"unknown attribute {name} of {node.tag}")
        if not known[name](value):
            raise BadXml(f"bad value of attribute {name} of {node.tag}")
    for name in _REQUIRED.get(node.tag, ()):
        if name not in node.attrib:
            raise BadXml(f"{node.tag} has no {name}")
    if node.tag == "Speak":
        return Element("Speak", node.attrib, _spoken_text(node))
    children = tuple(_read_child(node, child) for child in node)
    return _checked_content(Element(node.tag, node.attrib, (node.text or "").strip(), children))


def _read_child(node: ElementTree.Element, child: ElementTree.Element) -> Element:
    if (child.tail or "").strip():
        raise BadXml(f"stray text in {node.tag}")
    if child.tag in _ATTRIBUTES and child.tag not in _CHILDREN.get(node.tag, frozenset()):
        raise BadXml(f"{child.tag} is not allowed in {node.tag}")
    return _read_element(child)


def _checked_content(element: Element) -> Element:
    takes_url = element.name in ("Play", "Redirect")
    if takes_url and not _url(element.text):
        raise BadXml(f"{element.name} needs an absolute URL")
    if element.text and not takes_url:
        raise BadXml(f"{element.name} takes no text")
    return element


def _spoken_text(node: ElementTree.Element) -> str:
    for child in node.iter():
        if child is not node and child.tag not in _SSML_TAGS:
            raise BadXml(f"{child.tag} is not allowed in Speak")
    text = " ".join("".join(node.itertext()).split())
    if not text:
        raise BadXml("Speak has nothing to say")
    return text
