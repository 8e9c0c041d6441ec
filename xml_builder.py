"""Scripts to XML bytes. The dialect of a provider says what its elements are called; nothing else writes XML."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from xml.sax.saxutils import escape, quoteattr

from call_script import CallScript, Continue, Hangup, Menu, Pause, PlayAudio, Replay, Speak, Step
from voice_provider import CallUrls

# Characters that XML 1.0 cannot hold, escaped or not (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, eq=False)  # compared, and hashed for the cache below, as the one object it is
class Dialect:
    """How one provider spells the steps of a script.

    `menu` is the element that gathers a key; `menu_attributes` are set on each of them, and the wait in seconds
    goes into `menu_timeout_attribute`, raised to `menu_shortest_seconds` where the provider asks for more.
    `voices` has a voice for each language where the provider has such; those understand SSML, and with
    `spells_as` an utterance of one character is marked as `<say-as interpret-as="...">`.
    """

    pause: str
    menu: str
    menu_timeout_attribute: str
    menu_shortest_seconds: int
    menu_attributes: tuple[tuple[str, str], ...]
    speak_attributes: tuple[tuple[str, str], ...] = field(default=())
    voices: Mapping[str, str] = field(default_factory=dict)
    spells_as: str = ""


def render(script: CallScript, dialect: Dialect, urls: CallUrls) -> bytes:
    """The XML document for a script, UTF-8, with the provider's own element names."""
    return f"<Response>{''.join(_step(step, dialect, urls) for step in script)}</Response>".encode()


SILENT_HANGUP_XML = b"<Response><Hangup/></Response>"
"""In every dialect: the answer to a callback that must learn nothing."""


def _step(step: Step, dialect: Dialect, urls: CallUrls) -> str:
    match step:
        case Speak() | Pause() | PlayAudio() | Hangup():
            return _plain_step(step, dialect)
        case Menu(prompt, timeout_seconds):
            timeout = max(timeout_seconds, dialect.menu_shortest_seconds)
            attributes = {
                "action": urls.choice,
                "method": "POST",
                dialect.menu_timeout_attribute: str(timeout),
                **dict(dialect.menu_attributes),
            }
            return _element(dialect.menu, attributes, "".join(_plain_step(part, dialect) for part in prompt))
        case Continue():
            return _element("Redirect", {"method": "POST"}, escaped(urls.choice))
        case Replay():
            return _element("Redirect", {"method": "POST"}, escaped(urls.answer))


@lru_cache(maxsize=4096)  # greetings and digits repeat from call to call
def _plain_step(step: Speak | Pause | PlayAudio | Hangup, dialect: Dialect) -> str:
    match step:
        case Speak(text, language):
            return _speak(text, language, dialect)
        case Pause(seconds):
            return _element(dialect.pause, {"length": str(seconds)})
        case PlayAudio(url):
            return _element("Play", {}, escaped(url))
        case Hangup():
            return _element("Hangup", {})


def _speak(text: str, language: str, dialect: Dialect) -> str:
    voice = dialect.voices.get(language)
    chosen = {"voice": voice} if voice else {}
    content = escaped(text)
    if voice and dialect.spells_as and len(text) == 1:
        content = _element("say-as", {"interpret-as": dialect.spells_as}, content)
    return _element("Speak", {**dict(dialect.speak_attributes), **chosen, "language": language}, content)


def _element(name: str, attributes: Mapping[str, str], content: str = "") -> str:
    written = "".join(f" {key}={quoteattr(_xml_safe(value))}" for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def escaped(text: str) -> str:
    """Text for an XML document, without what XML cannot hold."""
    return escape(_xml_safe(text))


def _xml_safe(text: str) -> str:
    return _NOT_XML.sub("", text)
