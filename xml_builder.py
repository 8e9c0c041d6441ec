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

    `menu` is the element that gathers keys; `menu_attributes` are set on each of them, the wait in seconds goes
    into `menu_timeout_attribute`, raised to `menu_shortest_seconds` where the provider asks for more, and the
    number of keys into `menu_keys_attribute`. Each language has its voices in `voices`, else the plain ones;
    further ones can be named, with the language of each. Voices whose names begin with `ssml_voices` know SSML.
    """

    pause: str
    menu: str
    menu_timeout_attribute: str
    menu_shortest_seconds: int
    menu_keys_attribute: str
    menu_attributes: tuple[tuple[str, str], ...]
    plain_voices: Voices
    voices: Mapping[str, Voices] = field(default_factory=dict)
    named_voices: Mapping[str, str] = field(default_factory=dict)
    ssml_voices: str = "Polly."

    def voice_of(self, language: str, wanted: str) -> str:
        """The wanted voice, if it speaks this language, else the nearest that there is."""
        if self.named_voices.get(wanted) == language:
            return wanted
        female, male = self.voices.get(language, self.plain_voices)
        return (male or female) if wanted == "male" else (female or male)


def render(script: CallScript, dialect: Dialect, urls: CallUrls) -> bytes:
    """The XML document for a script, UTF-8, with the provider's own element names."""
    return f"<Response>{''.join(_step(step, dialect, urls) for step in script)}</Response>".encode()


SILENT_HANGUP_XML = b"<Response><Hangup/></Response>"
"""In every dialect: the answer to a callback that must learn nothing."""


def _step(step: Step, dialect: Dialect, urls: CallUrls) -> str:
    match step:
        case Speak() | Pause() | PlayAudio() | Hangup():
            return _plain_step(step, dialect)
        case Menu(prompt, timeout_seconds, keys):
            timeout = max(timeout_seconds, dialect.menu_shortest_seconds)
            attributes = {
                "action": urls.choice,
                "method": "POST",
                dialect.menu_timeout_attribute: str(timeout),
                dialect.menu_keys_attribute: str(keys),
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
