"""Prompt sets: which words and which voice a call has, and all that a file of them can have wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import prompts_file
from prompt_sets import Prompt, PromptKind, PromptRule, PromptSet, PromptSets, known_prompts
from server import create_app
from settings import BadSettings, load_settings

ENGLISH = {
    "regions": ("US",),
    "name": "English",
    "greeting": "Hello. This is your code for {app}.",
    "code_prompt": "Your code is",
    "key_prompt": "Press {key}.",
    "goodbye": "Goodbye.",
    "text_message": "{code} is your code for {app}.",
    "digits": {"0": "zero"},
}
KNOWN = known_prompts({"en": ENGLISH, "de": ENGLISH})


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(
    text: str, set_of_client: dict[str, str] | None = None, has_audio: Callable[[str], bool] | None = None
) -> PromptSets:
    Path("a.toml").write_text(text, encoding="utf-8")
    return prompts_file.load("a.toml", KNOWN, "Acme", set_of_client, has_audio).sets


def acme(text: str, has_audio: Callable[[str], bool] | None = None) -> PromptSet:
    found = load(text, has_audio=has_audio).choose("acme", "shop")
    assert found is not None
    return found


def problems_of(text: str, **given: object) -> list[str]:
    with pytest.raises(BadSettings) as bad:
        load(text, **given)  # type: ignore[arg-type]
    assert all("\n" not in problem for problem in bad.value.problems)
    return [problem.removeprefix("PROMPTS_FILE a.toml, ") for problem in bad.value.problems]


def prompt_problems(key: str, literal: str, has_audio: Callable[[str], bool] | None = None) -> list[str]:
    problems = problems_of(f"[prompts.acme.en]\n{key} = {literal}", has_audio=has_audio)
    return [re.sub(rf"^line 2(?=[:,]).*?prompts\.acme\.en\.{key} ", "", problem) for problem in problems]


def test_the_rules_come_from_the_language_files() -> None:
    assert KNOWN["en"] == {
        "greeting": PromptRule(frozenset(), frozenset({"app"})),
        "code_prompt": PromptRule(frozenset(), frozenset({"app"})),
        "key_prompt": PromptRule(frozenset({"key"}), frozenset({"app", "key"})),
        "goodbye": PromptRule(frozenset(), frozenset({"app"})),
        "text_message": PromptRule(frozenset({"app", "code"}), frozenset({"app", "code"}), is_spoken=False),
    }


def test_prompts_are_text_ssml_or_audio() -> None:
    found = acme(
        """
        [prompts.acme]
        app_name = "Fish & 'Chips'"
        [prompts.acme.en]
        greeting = "Hello, {app} here."
        key_prompt = "<speak>For {app} press {key}.</speak>"
        goodbye = " <speak>Bye <break time='300ms'/> from <sub alias='{app}'>{app}</sub></speak>"
        code_prompt = "audio:acme/en/code.wav"
        """,
        has_audio={"acme/en/code.wav"}.__contains__,
    )
    greeting, goodbye, code = (found.prompt("en", key) for key in ("greeting", "goodbye", "code_prompt"))
    assert greeting == Prompt(PromptKind.TEXT, "Hello, Fish & 'Chips' here.", "Hello, Fish & 'Chips' here.")
    assert goodbye is not None
    name = "Fish &amp; &apos;Chips&apos;"
    assert goodbye.inner_ssml == f"Bye <break time='300ms'/> from <sub alias='{name}'>{name}</sub>"
    assert goodbye.content == f"<speak>{goodbye.inner_ssml}</speak>"
    assert goodbye.words == "Bye from Fish & 'Chips'"
    assert goodbye.break_seconds == pytest.approx(0.3)
    assert code == Prompt(PromptKind.AUDIO, "acme/en/code.wav")
    assert code.filled({}) == code
    assert found.prompt("en", "text_message") is None, "the language file's is sent"
    key = found.prompt("en", "key_prompt")
    assert key is not None
    filled = key.filled({"key": "<7>"})
    assert filled.inner_ssml == f"For {name} press &lt;7&gt;."
    assert filled.words == "For Fish & 'Chips' press <7>."


def test_a_placeholder_without_a_value_is_an_error_and_a_value_is_never_filled_in_itself() -> None:
    prompt = Prompt(PromptKind.TEXT, "Press {key}.", "Press {key}.")
    assert prompt.filled({"key": "{app}"}).content == "Press {app}."
    with pytest.raises(KeyError):
        prompt.filled({"code": "1"})


def test_the_most_specific_language_that_has_the_prompt_wins() -> None:
    found = acme("""
        [prompts.acme.de]
        greeting = "Guten Tag."
        goodbye = "Auf Wiederhören."
        [prompts.acme.de-at]
        greeting = "Grüß Gott."
    """)

    def said(tag: str, key: str) -> str | None:
        prompt = found.prompt(tag, key)
        return prompt.content if prompt else None

    assert said("de-AT", "greeting") == said("DE-at", "greeting") == "Grüß Gott."
    assert said("de-AT", "goodbye") == said("de-DE", "goodbye") == said("de", "goodbye") == "Auf Wiederhören."
    assert said("de-DE", "greeting") == "Guten Tag."
    assert said("en-US", "greeting") is None
    assert said("den", "greeting") is None


def test_voices_are_chosen_by_language_and_the_most_specific_one_wins() -> None:
    found = acme("""
        [prompts.acme]
        voice = "Female"
        [prompts.acme.voices]
        de-DE = "male"
        en = "Polly.Joanna"
        en-gb-wls = "Polly.Vitória"
    """)
    voices = {tag: found.voice_for(tag) for tag in ("de-DE", "de", "de-CH", "en", "en-US", "en-GB-WLS", "fr-FR")}
    assert voices == {
        "de-DE": "male", "de": "female", "de-CH": "female",
        "en": "Polly.Joanna", "en-US": "Polly.Joanna", "en-GB-WLS": "Polly.Vitória", "fr-FR": "female",
    }  # fmt: skip
    assert acme("[prompts.acme.voices]\nen = 'male'").voice_for("de-DE") == "", "the carrier's own choice"


def test_the_set_that_is_asked_for_comes_before_the_clients_and_the_default_one() -> None:
    text = "[prompts.acme]\napp_name = 'Acme Bank'\n[prompts.other]\n"
    sets = load(text + "[prompts.default]", {"shop": "acme"})
    assert sets.names == ("acme", "other", "default")
    for wanted, client, name in [
        ("other", "shop", "other"), (None, "shop", "acme"), (None, "bank", "default"), ("acme", "bank", "acme"),
    ]:  # fmt: skip
        found = sets.choose(wanted, client)
        assert found is not None
        assert found.name == name
    assert sets.choose("unknown", "shop") is None
    without_default = load(text).choose(None, "bank")
    assert without_default == PromptSet("", "Acme"), "nothing in it: all is said as it always was"
    assert acme(text).app_name == "Acme Bank"


def test_without_a_file_there_are_no_sets() -> None:
    sets, alerts = prompts_file.load("", KNOWN, "Acme")
    assert (sets.names, sets.choose(None, "shop"), alerts) == ((), PromptSet("", "Acme"), {})
    assert sets.choose("default", "shop") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[prompt.acme]", "line 1: prompt is not known: use prompts, alerts"),
        ("prompts = 1", "line 1: prompts must be a table"),
        ("[prompts]\nacme = 'x'", "line 2: prompts.acme must be a table"),
        ("[prompts.Acme]", "line 1: prompts.Acme has a name that is not 1 to 32 characters of a-z 0-9 _ -"),
        (f"[prompts.{'a' * 33}]", f"line 1: prompts.{'a' * 33} has a name that is not"),
        ("[prompts.'two\\nlines']", 'line 1: prompts."two\\\\nlines" has a name that is not'),
        (
            "[prompts.acme]\ngreeting = 'x'",
            "line 2: prompts.acme.greeting is not known: use app_name, voice, voices or a language of en, de",
        ),
        ("[prompts.acme.fr]", "line 1: prompts.acme.fr is not known: use app_name"),
        ("[prompts.acme.en_US]", "line 1: prompts.acme.en_US is not known: use app_name"),
        ("[prompts.acme.'en-ü']", 'line 1: prompts.acme."en-\\u00fc" is not known: use app_name'),
        ("[prompts.acme.en-gb]\n[prompts.acme.en-GB]", "line 2: prompts.acme.en-GB is there twice"),
        ("[prompts.acme]\nen = 'x'", "line 2: prompts.acme.en must be a table"),
        (
            "[prompts.acme.en]\ngreting = 'x'",
            "line 2: prompts.acme.en.greting is not known: use greeting, code_prompt, key_prompt, goodbye, ",
        ),
        ("[prompts.acme.en]\nname = 'x'", "line 2: prompts.acme.en.name is not known: use"),
        ("[prompts.acme.en]\ngoodbye = 1", "line 2: prompts.acme.en.goodbye must be text in quotes"),
        ("[prompts.acme]\napp_name = '<b>'", "line 2: prompts.acme.app_name may hold up to 60 letters"),
        (f"[prompts.acme]\napp_name = '{'a' * 61}'", "line 2: prompts.acme.app_name may hold up to 60 letters"),
        ("[prompts.acme]\napp_name = 1", "line 2: prompts.acme.app_name must be text in quotes"),
        ("[prompts.acme]\napp_name = ''", "line 2: prompts.acme.app_name may hold up to 60 letters"),
        ("[prompts.acme]\nvoice = 'a\"b'", "line 2: prompts.acme.voice must be female, male, or a carrier's name"),
        ("[prompts.acme]\nvoice = 1", "line 2: prompts.acme.voice must be female, male, or a carrier's name"),
        ("[prompts.acme]\nvoices = 'male'", "line 2: prompts.acme.voices must be a table"),
        ("[prompts.acme.voices]\nfr = 'male'", "line 2: prompts.acme.voices.fr is not known: use a language of "),
        ("[prompts.acme.voices]\nen = ''", "line 2: prompts.acme.voices.en must be female, male, or a carrier's"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_set_is_named_with_its_line(text: str, problem: str) -> None:
    (found,) = problems_of(text)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("key", "literal", "problems"),
    [
        pytest.param("goodbye", "' '", ["says nothing"], id="empty"),
        pytest.param("goodbye", f"'{'a' * 301}'", ["has 301 characters: at most 300 are spoken"], id="long"),
        pytest.param(
            "goodbye", '"Bye\\u0007\\u0000 now\\n"',
            ["has characters that cannot be said: U+0000, U+0007, U+000A"], id="control characters",
        ),
        pytest.param("goodbye", "'Bye <break/>'", ["has < or > in plain text"], id="markup in text"),
        pytest.param("goodbye", "'Bye {code}'", ["has {code}: it may have {app}"], id="unknown placeholder"),
        pytest.param("greeting", "'{app.real}'", ["has a { or } that belongs to no placeholder"], id="format"),
        pytest.param("greeting", "'{{app}}'", ["has a { or } that belongs to no placeholder"], id="two braces"),
        pytest.param("greeting", "'{app'", ["has a { or } that belongs to no placeholder"], id="half of one"),
        pytest.param("key_prompt", "'Press it.'", ["does not say {key}"], id="no key"),
        pytest.param("text_message", "'Your code.'", ["does not say {app}, {code}"], id="message without code"),
        pytest.param(
            "text_message", "'{code} {app} {key}'", ["has {key}: it may have {app}, {code}"], id="message with key"
        ),
        pytest.param(
            "key_prompt", f"'{'a' * 301}{{x}}'",
            [
                "has 304 characters: at most 300 are spoken",
                "has {x}: it may have {app}, {key}",
                "does not say {key}",
            ],
            id="all at once",
        ),
        pytest.param("goodbye", "'<speak><break time=\"1s\"/></speak>'", ["says nothing"], id="SSML, no words"),
        pytest.param("goodbye", "'<speak/>'", ["says nothing"], id="nothing in SSML"),
        pytest.param(
            "goodbye", f"'<speak>{'a' * 301}</speak>'",
            ["has 301 characters: at most 300 are spoken"], id="long SSML",
        ),
        pytest.param(
            "goodbye", f"'<speak>a{'<break/>' * 124}</speak>'",
            ["has 1008 characters with its markup: at most 1000"], id="much markup",
        ),
        pytest.param(
            "goodbye", "'<speak>a&#128;</speak>'", ["has characters that cannot be said: U+0080"], id="C1 in SSML"
        ),
        pytest.param("goodbye", "'<speak>{code}</speak>'", ["has {code}: it may have {app}"], id="in SSML"),
        pytest.param(
            "key_prompt", "'<speak>Press <sub alias=\"{key}\">it</sub></speak>'", ["does not say {key}"],
            id="key in an attribute only",
        ),
        pytest.param(
            "text_message", "'<speak>{app} {code}</speak>'",
            ["is not spoken: it cannot be SSML"], id="message in SSML",
        ),
        pytest.param(
            "goodbye", "'<b>Bye</b>'", ["is not SSML inside of one <speak>"], id="markup without speak"
        ),
        pytest.param(
            "goodbye", "'<speak>Bye'", ["is not well-formed SSML: no element found"], id="not well-formed"
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_prompt_is_told(key: str, literal: str, problems: list[str]) -> None:
    assert prompt_problems(key, literal) == problems


def test_bad_ssml_is_told_with_line_and_column_of_the_file() -> None:
    text = '[prompts.acme.en]\ngoodbye = """\n<speak>\n  Bye <audio src="x"/></speak>"""'
    (problem,) = problems_of(text)
    assert problem.startswith("line 4, column 7: prompts.acme.en.goodbye has the element audio: use speak, break")
    assert text.splitlines()[3][6:].startswith("<audio")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("code.wav", None),
        ("acme/en/code-1.wav", None),
        ("../code.wav", "must name a file inside of AUDIO_DIR"),
        ("acme/../../code.wav", "must name a file inside of AUDIO_DIR"),
        ("acme/./code.wav", "must name a file inside of AUDIO_DIR"),
        ("/etc/passwd", "must name a file inside of AUDIO_DIR"),
        ("acme//code.wav", "must name a file inside of AUDIO_DIR"),
        ("acme\\\\code.wav", "must name a file inside of AUDIO_DIR"),
        ("C:/code.wav", "must name a file inside of AUDIO_DIR"),
        (".hidden/code.wav", "must name a file inside of AUDIO_DIR"),
        ("{app}.wav", "must name a file inside of AUDIO_DIR"),
        ("c\\u00f6de.wav", "must name a file inside of AUDIO_DIR"),
        ("code.wav\\n", "must name a file inside of AUDIO_DIR"),
        ("", "must name a file inside of AUDIO_DIR"),
        ("other.wav", "names an audio file that AUDIO_DIR does not have"),
    ],
)
def test_audio_is_a_file_inside_of_its_folder(path: str, problem: str | None) -> None:
    has_audio = {"code.wav", "acme/en/code-1.wav"}.__contains__
    literal = f'"audio:{path}"'
    if problem is None:
        prompt = acme(f"[prompts.acme.en]\ngoodbye = {literal}", has_audio).prompt("en", "goodbye")
        assert prompt == Prompt(PromptKind.AUDIO, path)
    else:
        (found,) = prompt_problems("goodbye", literal, has_audio)
        assert found.startswith(problem)


def test_audio_needs_a_folder_and_a_prompt_that_says_the_same_each_time() -> None:
    assert prompt_problems("goodbye", "'audio:a.wav'") == ["names an audio file, but AUDIO_DIR is not set"]
    assert prompt_problems("key_prompt", "'audio:a.wav'", lambda _: True) == [
        "cannot be audio: it has to say {key}"
    ]
    assert prompt_problems("text_message", "'audio:a.wav'", lambda _: True) == [
        "is not spoken: it cannot be audio"
    ]


def test_a_client_has_a_set_that_exists() -> None:
    assert problems_of("[prompts.acme]\n[prompts.bank]", set_of_client={"shop": "acme", "till": "other"}) == [
        "CLIENT_PROMPTS names sets that a.toml does not have: other; it has acme, bank"
    ]


def test_all_problems_of_a_file_are_told_at_once_and_end_the_start() -> None:
    text = "[prompts.Acme.en]\ngoodbye = '<speak>'\n[alerts.A.texts]\nen = '{x}'"
    Path("a.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadSettings) as bad:
        create_app(load_settings(prompts_file="a.toml"))
    assert [problem.split(": ")[0] for problem in bad.value.problems] == [
        "PROMPTS_FILE a.toml, line 1",
        "PROMPTS_FILE a.toml, line 2, column 19",
        "PROMPTS_FILE a.toml, line 3",
        "PROMPTS_FILE a.toml, line 4",
    ]


def test_the_service_starts_with_a_file_for_the_languages_that_it_has() -> None:
    Path("a.toml").write_text("[prompts.acme.de]\nmenu = 'Noch einmal? Die 1.'", encoding="utf-8")
    assert create_app(load_settings(prompts_file="a.toml"))


GUIDE = (Path(__file__).parent.parent / "docs" / "prompts.md").read_text(encoding="utf-8")


def test_the_example_of_the_guide_loads() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    Path("a.toml").write_text(example, encoding="utf-8")
    prompts = ("greeting", "code_prompt", "again", "menu", "goodbye", "apology")
    texts = {**dict.fromkeys(prompts, "x"), "text_message": "{code} {app}", "key_prompt": "{key}"}
    known = known_prompts({"en": texts, "de": texts})
    sets, alerts = prompts_file.load("a.toml", known, "Acme", {"shop": "acme"}, lambda _: True)
    assert sets.names == ("default", "acme")
    assert list(alerts) == ["delivery"]
    assert alerts["delivery"].check({"name": "Zoë", "minutes": 15, "at": "14:05"})


def test_the_guide_names_every_element_and_limit() -> None:
    from ssml import ELEMENTS, MAX_BREAK_SECONDS

    assert all(f"`{name}`" in GUIDE for name in ELEMENTS)
    assert f"{MAX_BREAK_SECONDS} seconds" in GUIDE
