"""A PHLO as it is drawn in Plivo's console: nodes, and lines from their states. docs/plivo-phlo.md shows ours.

Components, states and templates are documented on https://www.plivo.com/docs/phlo (components-library/*) and
https://plivo.com/docs/voice/use-cases/voice-otp.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from xml.etree import ElementTree

from simulator.answer_xml import BadXml
from simulator.call import speech
from simulator.lines import Sound

# Documented (voice/concepts/ssml): a voice of Amazon Polly for each language that can be spoken here.
POLLY_VOICES = {
    "da-DK": "Polly.Naja",
    "de-DE": "Polly.Vicki",
    "en-AU": "Polly.Nicole",
    "en-GB": "Polly.Amy",
    "en-IN": "Polly.Aditi",
    "en-US": "Polly.Joanna",
    "es-ES": "Polly.Conchita",
    "es-US": "Polly.Penelope",
    "fr-FR": "Polly.Celine",
    "it-IT": "Polly.Carla",
    "nl-NL": "Polly.Lotte",
    "pl-PL": "Polly.Ewa",
    "pt-PT": "Polly.Ines",
    "ru-RU": "Polly.Tatyana",
    "sv-SE": "Polly.Astrid",
}
BREAK_SECONDS = 0.5  # a break without a time, about as long as the pause at a comma


class Component(StrEnum):
    START = "Start"
    INITIATE_CALL = "Initiate Call"
    HTTP_REQUEST = "HTTP Request"
    PLAY_AUDIO = "Play Audio"
    COUNTER = "Counter"
    IVR_MENU = "IVR Menu"
    HANGUP = "Hangup"


@dataclass(frozen=True, slots=True)
class Node:
    """A component on the canvas. `settings` hold templates; `lines` lead from its states to the next node."""

    component: Component
    settings: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phlo:
    """A PHLO by the names of its nodes. `keys` are those of the payload that its Start node declares."""

    keys: frozenset[str]
    language: str
    nodes: Mapping[str, Node]

    def after(self, name: str, state: str) -> str | None:
        """The node that follows when a node has come to a state; None at the end of all lines."""
        return self.nodes[name].lines.get(state)


KEYS = frozenset(
    {"from", "to", "otp", "otp_spoken", "greeting", "code_prompt", "again", "replay_prompt", "goodbye", "readings"}
    | {"callback_url"}
)


def documented_phlo(language: str = "en-US", *, detects_machines: bool = False) -> Phlo:
    """The PHLO that docs/plivo-phlo.md shows, with a voice of this language."""
    voice = POLLY_VOICES[language]
    spelled = '<prosody rate="slow"><say-as interpret-as="spell-out">{{Start.http.params.otp}}</say-as></prosody>'
    code = (
        f'<Speak voice="{voice}">'
        "{{Start.http.params.code_prompt}}<break/>"
        f'{spelled}<break time="2s"/>'
        "{{Start.http.params.again}}<break/>"
        f"{spelled}</Speak>"
    )
    nodes = {
        "Start": Node(Component.START, lines={"API Request": "call"}),
        "call": Node(
            Component.INITIATE_CALL,
            {
                "from": "{{Start.http.params.from}}",
                "to": "{{Start.http.params.to}}",
                "ring timeout": "30",
                **({"machine detection": "on"} if detects_machines else {}),
            },
            {
                "Answered": "report_answered",
                "No Answer": "report_no_answer",
                "Busy/Rejected": "report_busy",
                "Failed": "report_failed",
                "Voicemail": "report_voicemail",
            },
        ),
        "report_answered": _report("answered", then="greeting"),
        "greeting": _sentence(voice, "greeting", Component.PLAY_AUDIO, {"Prompt Completed": "code"}),
        "code": Node(Component.PLAY_AUDIO, {"speak": code}, {"Prompt Completed": "report_spoken"}),
        "report_spoken": _report("spoken", then="readings"),
        "readings": Node(
            Component.COUNTER,
            {"max count": "{{Start.http.params.readings}}"},
            {"Count Not Reached": "menu", "Count Reached": "goodbye"},
        ),
        "menu": _sentence(
            voice,
            "replay_prompt",
            Component.IVR_MENU,
            {"1": "code", "No Input": "goodbye", "Wrong Input": "goodbye"},
        ),
        "goodbye": _sentence(voice, "goodbye", Component.PLAY_AUDIO, {"Prompt Completed": "report_ended"}),
        "report_ended": _report("ended", then="hangup"),
        "report_no_answer": _report("no_answer", with_cause=True),
        "report_busy": _report("busy", with_cause=True),
        "report_failed": _report("failed", with_cause=True),
        "report_voicemail": _report("voicemail", then="hangup"),
        "hangup": Node(Component.HANGUP),
    }
    return Phlo(KEYS, language, nodes)


def _sentence(voice: str, key: str, component: Component, lines: Mapping[str, str]) -> Node:
    speak = f'<Speak voice="{voice}">{{{{Start.http.params.{key}}}}}</Speak>'
    return Node(component, {"speak": speak}, lines)


def _report(event: str, *, then: str = "", with_cause: bool = False) -> Node:
    """An HTTP Request node. Its settings but `url` are the keys of its JSON body."""
    cause = {"hangup_cause": "{{call.hangup_cause}}"} if with_cause else {}
    settings = {"url": "{{Start.http.params.callback_url}}", "event": event, **cause}
    return Node(Component.HTTP_REQUEST, settings, {"Success": then, "Failed": then} if then else {})


def without_reports(phlo: Phlo) -> Phlo:
    """The same PHLO, drawn by someone who left the HTTP Request nodes out."""

    def beyond_reports(name: str | None) -> str | None:
        while name is not None and phlo.nodes[name].component is Component.HTTP_REQUEST:
            name = phlo.after(name, "Success")
        return name

    nodes = {}
    for name, node in phlo.nodes.items():
        lines = {state: beyond for state, to in node.lines.items() if (beyond := beyond_reports(to)) is not None}
        nodes[name] = replace(node, lines=lines)
    return replace(phlo, nodes=nodes)


def render(template: str, variables: Mapping[str, str]) -> str:
    """A template with its variables filled in; one that is unknown becomes nothing, as in Liquid."""
    return re.sub(r"\{\{\s*([A-Za-z0-9_.]+)\s*\}\}", lambda found: variables.get(found[1], ""), template)


def sounds_of(ssml: str, language: str) -> tuple[Sound, ...]:
    """What is heard of a Speak element with SSML. Raises: BadXml."""
    try:
        root = ElementTree.fromstring(ssml)  # noqa: S314 - a PHLO of ours with texts of our own service
    except ElementTree.ParseError as error:
        raise BadXml(f"the prompt is not well-formed: {error}") from None
    if root.tag != "Speak" or root.get("voice") != POLLY_VOICES[language]:
        raise BadXml("the prompt is no Speak element with the PHLO's voice")
    return tuple(_sounds(root, language))


def _sounds(element: ElementTree.Element, language: str) -> Iterator[Sound]:
    match element.tag:
        case "break":
            yield Sound(_break_seconds(element.get("time")))
        case "say-as" if element.get("interpret-as") in ("spell-out", "characters"):
            yield from (speech(character, language) for character in "".join((element.text or "").split()))
        case "Speak" | "prosody" | "say-as":
            yield from _speech(element.text, language)
            for child in element:
                yield from _sounds(child, language)
                yield from _speech(child.tail, language)
        case _:
            raise BadXml(f"{element.tag} is not allowed in a prompt")


def _speech(text: str | None, language: str) -> Iterator[Sound]:
    said = " ".join((text or "").split())
    if said:
        yield speech(said, language)


def _break_seconds(time: str | None) -> float:
    if time is None:
        return BREAK_SECONDS
    given = re.fullmatch("([0-9]{1,5})(ms|s)", time)
    if given is None:
        raise BadXml("bad value of attribute time of break")
    return int(given[1]) / (1000 if given[2] == "ms" else 1)
