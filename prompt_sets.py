"""Named sets of prompts and voices that an operator wrote: what is said in the place of `spoken_texts/`."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import setting_values
from config_file import ConfigFile, Spot, Where
from ssml import BadSsml, escaped, inside, read_ssml

DEFAULT_SET = "default"
LONGEST_PROMPT = 300  # characters that are spoken
LONGEST_SSML = 1000  # with its markup
AUDIO = "audio:"
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_VOICE = re.compile(r"[^\W_][\w .:/-]{0,63}")
_AUDIO_PART = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_AUDIO_FILE = re.compile(f"{_AUDIO_PART}(/{_AUDIO_PART})*")
_LANGUAGE = re.compile("[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_NOT_SPOKEN = frozenset({"text_message"})
_NO_PROMPTS = frozenset({"name"})  # fields of a language file that are text, but never said
_UNSPEAKABLE = frozenset({"Cc", "Cn", "Co", "Cs", "Zl", "Zp"})  # not Cf: many scripts need its joiners


class PromptKind(StrEnum):
    TEXT = "text"
    SSML = "ssml"
    AUDIO = "audio"


class Prompt(NamedTuple):
    """What is said at one place of a call.

    `content` is text, a whole `<speak>` element, or a file below AUDIO_DIR; the name of the app is in it already.
    `words` is the same without markup, for carriers without SSML and for estimates, with `break_seconds` of
    silence in it; audio has no words.
    """

    kind: PromptKind
    content: str
    words: str = ""
    break_seconds: float = 0

    def filled(self, values: Mapping[str, str]) -> "Prompt":
        """With values in the place of its `{placeholders}`. Raises: KeyError for one that is missing."""
        if "{" not in self.content:
            return self
        words = fill(self.words, values)
        if self.kind is PromptKind.TEXT:
            return self._replace(content=words, words=words)
        safe = {name: escaped(value) for name, value in values.items()}
        return self._replace(content=fill(self.content, safe), words=words)

    @property
    def inner_ssml(self) -> str:
        """What is inside of `<speak>`, for carriers whose own element stands in its place."""
        return inside(self.content)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """`voices` and `prompts` are by canonical language tag, a set's voice for all languages under ''."""

    name: str
    app_name: str
    voices: Mapping[str, str] = field(default_factory=dict)
    prompts: Mapping[str, Mapping[str, Prompt]] = field(default_factory=dict)

    def voice_for(self, language: str) -> str:
        """female, male, a carrier's own name of a voice, or '' for the carrier's own choice."""
        for tag in widening(language):
            if tag in self.voices:
                return self.voices[tag]
        return self.voices.get("", "")

    def prompt(self, language: str, key: str) -> Prompt | None:
        """The set's own prompt; None where that of the language file is said."""
        for tag in widening(language):
            prompts = self.prompts.get(tag)
            if prompts and key in prompts:
                return prompts[key]
        return None


class PromptSets:
    """All sets, and which one a call has: the one that was asked for, its client's, `default`, or none at all."""

    def __init__(self, sets: Mapping[str, PromptSet], set_of_client: Mapping[str, str], app_name: str) -> None:
        self._sets = sets
        self._set_of_client = set_of_client
        self._without_prompts = PromptSet("", app_name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sets)

    def voices(self) -> Iterator[tuple[str, str]]:
        """Every voice that a set has, with the name of its set."""
        for prompt_set in self._sets.values():
            yield from ((prompt_set.name, voice) for voice in prompt_set.voices.values())

    def named(self, name: str) -> PromptSet:
        """The set of a call under way; an empty one for an empty name."""
        return self._sets.get(name, self._without_prompts)

    def choose(self, wanted: str | None, client: str) -> PromptSet | None:
        """None if the wanted set is not known; without a wish there always is one, if need be an empty one."""
        if wanted is not None:
            return self._sets.get(wanted)
        return self._sets.get(self._set_of_client.get(client, DEFAULT_SET), self._without_prompts)


@dataclass(frozen=True, slots=True)
class PromptRule:
    """What a prompt of a language has to say, and may say, in `{placeholders}`."""

    required: frozenset[str]
    allowed: frozenset[str]
    is_spoken: bool = True


KnownPrompts = Mapping[str, Mapping[str, PromptRule]]
"""By language and by key: what there is to be replaced."""


def known_prompts(files: Mapping[str, Mapping[str, object]]) -> KnownPrompts:
    """The rules, taken from the fields of each language file: the text that is replaced shows its placeholders."""
    return {
        language: {
            key: _rule(key, text)
            for key, text in fields.items()
            if isinstance(text, str) and key not in _NO_PROMPTS
        }
        for language, fields in files.items()
    }


def _rule(key: str, text: str) -> PromptRule:
    used = frozenset(_PLACEHOLDER.findall(text))
    if key in _NOT_SPOKEN:
        return PromptRule(used, used, is_spoken=False)
    return PromptRule(used - {"app"}, used | {"app"})


def fill(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], text)


@lru_cache(maxsize=1024)
def widening(language: str) -> tuple[str, ...]:
    """A language tag in its canonical form, then without its last parts: de-CH-1901, de-CH, de."""
    first, *others = language.split("-")
    parts = [first.lower(), *map(_canonical_part, others)]
    return tuple("-".join(parts[:length]) for length in range(len(parts), 0, -1))


def _canonical_part(part: str) -> str:
    return part.upper() if len(part) == 2 else part.title() if len(part) == 4 else part.lower()


def read_prompt_sets(
    file: ConfigFile, known: KnownPrompts, app_name: str, has_audio: Callable[[str], bool] | None
) -> dict[str, PromptSet]:
    """The file's sets. `has_audio` tells whether AUDIO_DIR has a file; None: there is no AUDIO_DIR.

    What is wrong is reported to the file.
    """
    reader = _SetReader(file, known, app_name, has_audio)
    sets = file.table(("prompts",), file.document.get("prompts", {}))
    return {name: reader.read(name, value) for name, value in sets.items()}


class _SetReader:
    def __init__(
        self, file: ConfigFile, known: KnownPrompts, app_name: str, has_audio: Callable[[str], bool] | None
    ) -> None:
        self._file = file
        self._known = known
        self._app_name = app_name
        self._has_audio = has_audio

    def read(self, name: str, value: object) -> PromptSet:
        where: Where = ("prompts", name)
        check_name(self._file, where)
        table = dict(self._file.table(where, value))
        app_name = self._app(where, table.pop("app_name", self._app_name))
        voices = {}
        if "voice" in table:
            voices[""] = self._voice((*where, "voice"), table.pop("voice"))
        voices_where = (*where, "voices")
        by_language = self._file.table(voices_where, table.pop("voices", {}))
        for tag, place, voice in by_tag(self._file, voices_where, by_language, self._known):
            voices[tag] = self._voice(place, voice)
        prompts = {
            tag: {key: _named(prompt, app_name) for key, prompt in self._prompts(place, tag, value).items()}
            for tag, place, value in by_tag(self._file, where, table, self._known, "app_name, voice, voices or ")
        }
        return PromptSet(name, app_name, voices, prompts)

    def _app(self, where: Where, value: object) -> str:
        name = self._file.text((*where, "app_name"), value)
        try:
            return setting_values.app_name(name) if name is not None else ""
        except ValueError as error:
            self._file.report((*where, "app_name"), str(error))
            return ""

    def _voice(self, where: Where, value: object) -> str:
        voice = value if isinstance(value, str) else ""
        if not _VOICE.fullmatch(voice):
            self._file.report(where, "must be female, male, or a carrier's name of a voice such as Polly.Joanna")
        return voice.lower() if voice.lower() in ("female", "male") else voice

    def _prompts(self, where: Where, tag: str, value: object) -> dict[str, Prompt]:
        rules = next(self._known[language] for language in widening(tag) if language in self._known)
        table = self._file.table(where, value)
        self._file.refuse_other_keys(where, table, rules)
        return {
            key: self._prompt((*where, key), text, rules[key])
            for key, value in table.items()
            if key in rules and (text := self._file.text((*where, key), value)) is not None
        }

    def _prompt(self, where: Where, text: str, rule: PromptRule) -> Prompt:
        if text.startswith(AUDIO):
            return self._audio(where, text.removeprefix(AUDIO), rule)
        if text.lstrip().startswith("<"):
            return self._ssml(where, text, rule)
        for problem in (*text_problems(text, LONGEST_PROMPT), *placeholder_problems(text, text, rule)):
            self._file.report(where, problem)
        return Prompt(PromptKind.TEXT, text, text)

    def _ssml(self, where: Where, text: str, rule: PromptRule) -> Prompt:
        if not rule.is_spoken:
            self._file.report(where, "is not spoken: it cannot be SSML")
        try:
            words, break_seconds = read_ssml(text)
        except BadSsml as error:
            self._file.report(where, error.problem, Spot(error.line, error.column))
            return Prompt(PromptKind.SSML, text)
        if len(text) > LONGEST_SSML:
            self._file.report(where, f"has {len(text)} characters with its markup: at most {LONGEST_SSML}")
        for problem in (*word_problems(words, LONGEST_PROMPT), *placeholder_problems(text, words, rule)):
            self._file.report(where, problem)
        return Prompt(PromptKind.SSML, text.strip(), words, break_seconds)

    def _audio(self, where: Where, path: str, rule: PromptRule) -> Prompt:
        if not rule.is_spoken:
            self._file.report(where, "is not spoken: it cannot be audio")
        elif rule.required:
            self._file.report(where, f"cannot be audio: it has to say {_shown(rule.required)}")
        if not _AUDIO_FILE.fullmatch(path):
            self._file.report(
                where, f"must name a file inside of AUDIO_DIR, such as {AUDIO}acme/en/code.wav, in plain ASCII"
            )
        elif self._has_audio is None:
            self._file.report(where, "names an audio file, but AUDIO_DIR is not set")
        elif not self._has_audio(path):
            self._file.report(where, "names an audio file that AUDIO_DIR does not have")
        return Prompt(PromptKind.AUDIO, path)


def _named(prompt: Prompt, app_name: str) -> Prompt:
    said = escaped(app_name) if prompt.kind is PromptKind.SSML else app_name
    words = prompt.words.replace("{app}", app_name)
    return prompt._replace(content=prompt.content.replace("{app}", said), words=words)


def check_name(file: ConfigFile, where: Where) -> None:
    if not setting_values.NAME.fullmatch(where[-1]):
        file.report(where, "has a name that is not 1 to 32 characters of a-z 0-9 _ -")


def by_tag(
    file: ConfigFile, where: Where, table: Mapping[str, Any], known: Collection[str], other_keys: str = ""
) -> Iterator[tuple[str, Where, Any]]:
    """The values of a table whose keys are languages, with their canonical tags. `other_keys` are only told of."""
    seen = set()
    for key, value in table.items():
        place = (*where, key)
        tags = widening(key)
        if not _LANGUAGE.fullmatch(key) or not any(tag in known for tag in tags):
            file.report(place, f"is not known: use {other_keys}a language of {', '.join(known)}")
        elif tags[0] in seen:
            file.report(place, "is there twice")
        else:
            seen.add(tags[0])
            yield tags[0], place, value


def text_problems(text: str, longest: int) -> Iterator[str]:
    """What is wrong in plain text, in words that follow its name."""
    yield from word_problems(text, longest)
    if "<" in text or ">" in text:
        yield "has < or > in plain text"


def word_problems(words: str, longest: int) -> Iterator[str]:
    if not words.strip():
        yield "says nothing"
    if len(words) > longest:
        yield f"has {len(words)} characters: at most {longest} are spoken"
    unspeakable = {f"U+{ord(one):04X}" for one in words if unicodedata.category(one) in _UNSPEAKABLE}
    if unspeakable:
        yield f"has characters that cannot be said: {', '.join(sorted(unspeakable))}"


def placeholder_problems(text: str, words: str, rule: PromptRule) -> Iterator[str]:
    """`words` is what is heard of the text: what is required has to be in there."""
    used = set(_PLACEHOLDER.findall(text))
    if used - rule.allowed:
        yield f"has {_shown(used - rule.allowed)}: it may have {_shown(rule.allowed) or 'no placeholders'}"
    missing = rule.required - set(_PLACEHOLDER.findall(words))
    if missing:
        yield f"does not say {_shown(missing)}"
    if re.search("[{}]", _PLACEHOLDER.sub("", text)):
        yield "has a { or } that belongs to no placeholder"


def _shown(placeholders: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(placeholders))
