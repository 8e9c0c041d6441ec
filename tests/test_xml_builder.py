"""The exact XML of each step, read back by the simulator's strict reader; nothing can be injected."""

from xml.etree import ElementTree

import pytest

from call_script import Continue, Hangup, Menu, Pause, PlayAudio, Replay, Speak, Step
from simulator import vobiz_call
from vobiz_client import DIALECT
from voice_provider import CallUrls
from xml_builder import render

URLS = CallUrls(
    answer="https://otp.example.com/answer/TOKEN?n=2",
    fallback="https://otp.example.com/answer/TOKEN?n=2",
    choice="https://otp.example.com/otp-choice/TOKEN?n=1",
    hangup="https://otp.example.com/hangup/TOKEN",
    ring="https://otp.example.com/ring/TOKEN",
    events="https://otp.example.com/events/TOKEN",
)


@pytest.mark.parametrize(
    ("step", "xml"),
    [
        (Speak("Grüezi & adé", "de-DE"), '<Speak voice="WOMAN" language="de-DE">Grüezi &amp; adé</Speak>'),
        (Speak("Hi", "de-DE", "male"), '<Speak voice="MAN" language="de-DE">Hi</Speak>'),
        (Speak("Hi", "en-GB", "Polly.Amy"), '<Speak voice="Polly.Amy" language="en-GB">Hi</Speak>'),
        (Speak("Hi", "de-DE", "Polly.Amy"), '<Speak voice="WOMAN" language="de-DE">Hi</Speak>'),
        (Speak("Hi", "de-DE", "Klingon"), '<Speak voice="WOMAN" language="de-DE">Hi</Speak>'),
        (
            Speak("H & i", "en-GB", "Polly.Amy", rate=80),
            '<Speak voice="Polly.Amy" language="en-GB"><prosody rate="80%">H &amp; i</prosody></Speak>',
        ),
        (
            Speak("Hi", "en-GB", "Polly.Amy", rate=80, ssml="<s>H &amp; i</s>"),
            '<Speak voice="Polly.Amy" language="en-GB"><prosody rate="80%"><s>H &amp; i</s></prosody></Speak>',
        ),
        (
            Speak("Hi", "en-GB", "female", rate=80, ssml="<s>Hi</s>"),
            '<Speak voice="WOMAN" language="en-GB">Hi</Speak>',
        ),
        (Pause(1), '<Wait length="1"/>'),
        (Pause(0.2), '<Wait length="1"/>'),
        (Pause(2.5), '<Wait length="3"/>'),
        (PlayAudio("https://a.example/1.wav?a=1&b=2"), "<Play>https://a.example/1.wav?a=1&amp;b=2</Play>"),
        (Hangup(), "<Hangup/>"),
        (Continue(), '<Redirect method="POST">https://otp.example.com/otp-choice/TOKEN?n=1</Redirect>'),
        (Replay(), '<Redirect method="POST">https://otp.example.com/answer/TOKEN?n=2</Redirect>'),
        (
            Menu((Speak("Press 1.", "en-US"),), 3),
            '<Gather action="https://otp.example.com/otp-choice/TOKEN?n=1" method="POST" executionTimeout="5" '
            'numDigits="1" inputType="dtmf" finishOnKey="none" log="false">'
            '<Speak voice="WOMAN" language="en-US">Press 1.</Speak></Gather>',
        ),
        (
            Menu((Speak("Press", "en-US"), PlayAudio("https://a.example/4.wav")), 20, keys=2),
            '<Gather action="https://otp.example.com/otp-choice/TOKEN?n=1" method="POST" executionTimeout="20" '
            'numDigits="2" inputType="dtmf" finishOnKey="#" log="false" digitEndTimeout="5">'
            '<Speak voice="WOMAN" language="en-US">Press</Speak><Play>https://a.example/4.wav</Play></Gather>',
        ),
    ],
)
def test_each_step_has_its_element(step: Step, xml: str) -> None:
    document = render((step,), DIALECT, URLS)
    assert document.decode() == f"<Response>{xml}</Response>"
    assert len(vobiz_call.read(document)) == 1


def test_a_pause_of_no_length_is_left_out() -> None:
    """Carriers take lengths from 1 second on."""
    assert render((Pause(0), Hangup()), DIALECT, URLS) == b"<Response><Hangup/></Response>"


@pytest.mark.parametrize(
    "hostile",
    [
        "</Speak><Hangup/><Speak>",
        '"/><Dial>+14155550142</Dial>',
        "]]> <![CDATA[ &lt; &#x41;",
        "a\x00b\x0bc\x1fd\ufffee\ud800f",
        "<!DOCTYPE x>" * 1000,
    ],
)
def test_no_text_can_become_an_element(hostile: str) -> None:
    document = render(
        (Speak("said: " + hostile, "en-US"), PlayAudio("https://a.example/" + hostile)), DIALECT, URLS
    )
    root = ElementTree.fromstring(document)
    assert [child.tag for child in root] == ["Speak", "Play"]
    assert all(len(child) == 0 for child in root)
