"""SSML: what is let through, and where it is wrong."""

import pytest

from ssml import BadSsml, escaped, inside, read_ssml


@pytest.mark.parametrize(
    ("text", "words", "break_seconds"),
    [
        pytest.param("<speak>Bye.</speak>", "Bye.", 0, id="text"),
        pytest.param("<speak >\n Bye \t now. </speak >\n", "Bye now.", 0, id="white space"),
        pytest.param(
            '<speak>Bye<break time="300ms"/>now<break time="1.5s"/></speak>', "Bye now", 1.8, id="breaks"
        ),
        pytest.param(
            "<speak><p>One.</p><p><s>Two.</s><s>Three.</s></p></speak>", "One. Two. Three.", 0, id="p, s"
        ),
        pytest.param("<speak>Fish &amp; Chips &#8217;</speak>", "Fish & Chips ’", 0, id="XML's own entities"),
        pytest.param('<speak><say-as interpret-as="digits">12</say-as></speak>', "12", 0, id="say-as"),
        pytest.param('<speak>Der <lang xml:lang="en">Code</lang></speak>', "Der Code", 0, id="lang"),
        pytest.param('<speak><sub alias="{app}">it</sub> {key}</speak>', "it {key}", 0, id="placeholders"),
    ],
)
def test_words_and_breaks(text: str, words: str, break_seconds: float) -> None:
    assert read_ssml(text).words == words
    assert read_ssml(text).break_seconds == pytest.approx(break_seconds)


@pytest.mark.parametrize(
    ("text", "problem", "line", "column"),
    [
        pytest.param("<speak>Bye", "is not well-formed SSML: no element found", 1, 11, id="not closed"),
        pytest.param("<speak>\n é <p>x</speak>", "is not well-formed SSML: mismatched tag", 2, 10, id="tags"),
        pytest.param("<speak>{key} & so on</speak>", "is not well-formed SSML: not well-formed", 1, 15, id="&"),
        pytest.param("<speak>a</speak> b", "is not well-formed SSML: junk after", 1, 18, id="text behind"),
        pytest.param("<speak>a</speak><speak/>", "is not well-formed SSML: junk after", 1, 17, id="two of them"),
        pytest.param("<speak>&app;</speak>", "is not well-formed SSML: undefined entity", 1, 8, id="an entity"),
        pytest.param("<speak>&#7;</speak>", "is not well-formed SSML: reference to invalid", 1, 8, id="control"),
        pytest.param("<p>a</p>", "is not SSML inside of one <speak>", 1, 1, id="no speak"),
        pytest.param("<Speak>a</Speak>", "is not SSML inside of one <speak>", 1, 1, id="capitals"),
        pytest.param("<speak>a<speak>b</speak></speak>", "is not SSML inside of one <speak>", 1, 9, id="twice"),
        pytest.param("<speak>😀é<b>x</b></speak>", "has the element b: use speak, break,", 1, 10, id="element"),
        pytest.param("<speak><audio src='x'/></speak>", "has the element audio", 1, 8, id="audio"),
        pytest.param("<speak><mark name='x'/></speak>", "has the element mark", 1, 8, id="mark"),
        pytest.param("<speak version='1.1'>a</speak>", "has the attribute version of", 1, 1, id="speak's"),
        pytest.param("<speak><p a='1'>b</p></speak>", "has the attribute a of p: allowed is none", 1, 8, id="p"),
        pytest.param(
            "<speak><break tiem='1s'/></speak>",
            "has the attribute tiem of break: allowed is strength, time", 1, 8, id="attribute",
        ),
        pytest.param("<speak><break time='1'/></speak>", "has a break whose time is not such as", 1, 8, id="time"),
        pytest.param("<speak><break time='٣s'/></speak>", "has a break whose time is not", 1, 8, id="digits"),
        pytest.param(
            "<speak><break time='9s'/>a<break time='1001ms'/></speak>",
            "has breaks of more than 10 seconds in all", 1, 27, id="long breaks",
        ),
        pytest.param("<speak><!-- {key} -->a</speak>", "has a comment", 1, 8, id="comment"),
        pytest.param("<speak><![CDATA[<b>]]></speak>", "has a CDATA section", 1, 8, id="CDATA"),
        pytest.param("<speak><?php x?></speak>", "has a processing instruction", 1, 8, id="instruction"),
        pytest.param("<!DOCTYPE speak><speak>a</speak>", "has a DOCTYPE", 1, 16, id="doctype"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named_with_its_place(text: str, problem: str, line: int, column: int) -> None:
    with pytest.raises(BadSsml) as bad:
        read_ssml(text)
    assert bad.value.problem.startswith(problem)
    assert (bad.value.line, bad.value.column) == (line, column)


def test_entities_are_never_expanded() -> None:
    bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 30))
    for text in (
        f'<!DOCTYPE speak [<!ENTITY e0 "ha">{bomb}]><speak>&e29;</speak>',
        '<!DOCTYPE speak [<!ENTITY file SYSTEM "file:///etc/passwd">]><speak>&file;</speak>',
        '<!DOCTYPE speak SYSTEM "http://127.0.0.1/speak.dtd"><speak>a</speak>',
    ):
        with pytest.raises(BadSsml, match="has a DOCTYPE"):
            read_ssml(text)


def test_a_value_can_stand_anywhere() -> None:
    value = escaped("<b> \"Fish\" & 'Chips' ]]>")
    assert read_ssml(f"<speak><sub alias='{value}'>{value}</sub></speak>").words == "<b> \"Fish\" & 'Chips' ]]>"


def test_what_is_inside_of_speak() -> None:
    assert inside("<speak>a <p>b</p></speak>") == "a <p>b</p>"
    assert inside("<speak\n>a</speak >") == "a"
