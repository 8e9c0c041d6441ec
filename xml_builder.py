"""Scripts to XML bytes. The dialect of a provider says what its elements are called; nothing else writes XML."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from call_script import NORMAL_RATE, CallScript, Continue, Hangup, Menu, Pause, PlayAudio, Replay, Speak, Step
from voice_provider import CallUrls

# Characters that XML 1.0 cannot hold, escaped or not (https://www.w3.org/TR/xml/#charsets).
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Voices(NamedTuple):
    """The voices of a language; empty where there is none, and the other one speaks."""

    female: str = ""
    male: str = ""


@dataclass(frozen=True, slots=True, eq=False)  # compared, and hashed for the cache below, as the one object it is
class Dialect:
    """How one provider spells the steps of a script.

    `menu` is the element that gathers keys; `menu_attributes` are set on each of them, `typing_attributes` where
    there is more than one key to press. The wait in seconds goes into `menu_timeout_attribute`, raised to
    `menu_shortest_seconds` where the provider asks for more, and the number of keys into `menu_keys_attribute`.
    Each language has its voices in `voices`, else the plain ones; `further_voices` of a language have to be named.
    Voices whose names begin with `ssml_voices` know SSML.
    """

    pause: str
    menu: str
    menu_timeout_attribute: str
    menu_shortest_seconds: int
    menu_keys_attribute: str
    menu_attributes: tuple[tuple[str, str], ...]
    typing_attributes: tuple[tuple[str, str], ...]
    plain_voices: Voices
    voices: Mapping[str, Voices] = field(default_factory=dict)
    further_voices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ssml_voices: str = "Polly."

    @property
    def named_voices(self) -> tuple[str, ...]:
        """All that can be asked for by name, in whatever language."""
        named = (*self.voices.values(), *self.further_voices.values())
        return tuple(dict.fromkeys(voice for voices in named for voice in voices if voice))

    def voice_of(self, language: str, wanted: str) -> str:
        """The wanted voice, if it speaks this language, else the nearest that there is."""
        voices = self.voices.get(language, self.plain_voices)
        if wanted and wanted in (*voices, *self.further_voices.get(language, ())):
            return wanted
        female, male = voices
        return (male or female) if wanted == "male" else (female or male)


def render(script: CallScript, dialect: Dialect, urls: CallUrls) -> bytes:
    """The XML document for a script, UTF-8, with the provider's own element names."""
    parts = [
        _plain_step(step, dialect) if type(step) in _PLAIN else _asking_step(step, dialect, urls)
        for step in script
    ]  # fmt: skip
    return f"<Response>{''.join(parts)}</Response>".encode()


SILENT_HANGUP_XML = b"<Response><Hangup/></Response>"
"""In every dialect: the answer to a callback that must learn nothing."""


def ask_again_xml(url: str) -> bytes:
    """In every dialect: wait for a second, and ask there."""
    return f'<Response><Wait length="1"/>{_redirect(url)}</Response>'.encode()


_PLAIN = frozenset({Speak, Pause, PlayAudio, Hangup})


def _asking_step(step: Step, dialect: Dialect, urls: CallUrls) -> str:
    match step:
        case Menu():
            before, after = _menu(step, dialect)
            return f"{before}{quoteattr(urls.choice)}{after}"
        case Continue():
            return _redirect(urls.choice)
        case Replay():
            return _redirect(urls.answer)
        case _:
            return _plain_step(step, dialect)


@lru_cache(maxsize=1024)
def _menu(step: Menu, dialect: Dialect) -> tuple[str, str]:
    """What stands before and after the action URL, the only part that is another one in each call."""
    timeout = max(step.timeout_seconds, dialect.menu_shortest_seconds)
    attributes = {
        "method": "POST",
        dialect.menu_timeout_attribute: str(timeout),
        dialect.menu_keys_attribute: str(step.keys),
        **dict(dialect.menu_attributes),
        **(dict(dialect.typing_attributes) if step.keys > 1 else {}),
    }
    prompt = "".join(_plain_step(part, dialect) for part in step.prompt)
    start, rest = _element(dialect.menu, attributes, prompt).split(" ", 1)
    return f"{start} action=", f" {rest}"


def _redirect(url: str) -> str:
    return f'<Redirect method="POST">{escape(url)}</Redirect>'


@lru_cache(maxsize=4096)  # greetings and digits repeat from call to call
def _plain_step(step: Speak | Pause | PlayAudio | Hangup, dialect: Dialect) -> str:
    match step:
        case Speak():
            return _speak(step, dialect)
        case Pause(seconds):
            # Documented: whole seconds, one at least.
            return _element(dialect.pause, {"length": str(math.ceil(seconds))}) if seconds > 0 else ""
        case PlayAudio(url):
            return _element("Play", {}, escaped(url))
        case Hangup():
            return _element("Hangup", {})


def _speak(step: Speak, dialect: Dialect) -> str:
    voice = dialect.voice_of(step.language, step.voice)
    content = escaped(step.text)
    if voice.startswith(dialect.ssml_voices):
        content = step.ssml or content
        if step.rate != NORMAL_RATE:
            content = _element("prosody", {"rate": f"{step.rate}%"}, content)
    return _element("Speak", {"voice": voice, "language": step.language}, content)


def _element(name: str, attributes: Mapping[str, str], content: str = "") -> str:
    written = "".join(f" {key}={quoteattr(_xml_safe(value))}" for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def escaped(text: str) -> str:
    """Text for an XML document, without what XML cannot hold."""
    return escape(_xml_safe(text))


def _xml_safe(text: str) -> str:
    return _NOT_XML.sub("", text)
