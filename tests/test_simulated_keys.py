"""Keys in simulated calls: how many a wait takes, what ends it, and who presses which."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from simulator import plivo_call, vobiz_call
from simulator.call import Customs, speech
from simulator.callees import SCRIPTED_CALLEES, ScriptedCallee
from simulator.clock import SimulatorClock
from simulator.hearing import Sound, character_of, keys_asked_for
from simulator.lines import KEY_SECONDS, CalleeHungUp, KeyWait, ScriptedLine
from simulator.phone import PhoneExchange, PhoneLine
from simulator.plivo_call import PlivoCall
from simulator.vobiz_call import VobizCall
from simulator.xml_call import XmlCall
from tests.test_simulator import Customers, xml_request

NO_WAITING = SimulatorClock(float("inf"))
PROMPT = speech("Type the code.", "en-US")


def heard(*texts: str, language: str = "en-US") -> tuple[Sound, ...]:
    return tuple(speech(text, language) for text in texts)


# What is understood


@pytest.mark.parametrize(
    ("prompt", "keys"),
    [
        pytest.param(heard("Hello.", "To hear it, press", "four", "seven"), "47", id="keys one by one"),
        pytest.param(heard("To hear it, press four, seven."), "47", id="keys in the sentence"),
        pytest.param(heard("To hear the code again, press 1."), "1", id="a digit"),
        pytest.param(heard("Welcome to Studio 54.", "Press", "nine", "nine"), "99", id="another number before"),
        pytest.param(heard("Um ihn zu hören, drücken Sie bitte", "drei", language="de-DE"), "3", id="German"),
        pytest.param(heard("Please type the code that you see on your screen."), "", id="no digit"),
        pytest.param(heard("Press", "four", language="tlh"), "", id="a language that nobody here speaks"),
        pytest.param((Sound(3, url="https://otp.example.com/audio/x.wav"),), "", id="a recording"),
    ],
)
def test_a_callee_understands_which_keys_are_asked_for(prompt: tuple[Sound, ...], keys: str) -> None:
    assert keys_asked_for(prompt) == keys


@pytest.mark.parametrize(
    ("text", "language", "character"),
    [("six", "en-US", "6"), ("Seis", "es-ES", "6"), ("double you", "en-GB", "W"), ("6", "en-US", "6"),
     ("k", "tlh", "K"), ("Goodbye.", "en-US", "")],
)  # fmt: skip
def test_a_character_is_known_by_its_name(text: str, language: str, character: str) -> None:
    assert character_of(Sound(1, text, language)) == character


# Scripted callees

PROMPT_SECONDS = PROMPT.seconds
TWO = KeyWait(5, most=2, between_seconds=2)
CODE = KeyWait(20, most=6, between_seconds=2, end_keys="#")


@pytest.mark.parametrize(
    ("keys", "wait", "typed", "seconds"),
    [
        pytest.param("47", TWO, "47", PROMPT_SECONDS + KEY_SECONDS, id="as many as are wanted"),
        pytest.param("4711", TWO, "47", PROMPT_SECONDS + KEY_SECONDS, id="no more than are wanted"),
        pytest.param("4", TWO, "4", PROMPT_SECONDS + 2, id="too few: the time between keys"),
        pytest.param("", TWO, "", PROMPT_SECONDS + 5, id="none: the time for the first key"),
        pytest.param("610#89", CODE, "610#", PROMPT_SECONDS + 3 * KEY_SECONDS, id="a key that ends it"),
        pytest.param("4", KeyWait(5, most=2), "4", PROMPT_SECONDS + 5, id="one time for all keys"),
    ],
)
async def test_a_wait_ends_with_its_keys_or_its_time(keys: str, wait: KeyWait, typed: str, seconds: float) -> None:
    callee = ScriptedCallee("types", keys=(keys,) if keys else ())
    found = await ScriptedLine(callee, NO_WAITING).wait_for_keys((PROMPT,), wait)
    assert found.keys == typed
    assert found.seconds == pytest.approx(seconds)


async def test_keys_that_a_wait_did_not_take_come_in_the_next_one_unless_something_is_said() -> None:
    line = ScriptedLine(ScriptedCallee("types", keys=("47", "1")), NO_WAITING)
    assert (await line.wait_for_keys((PROMPT,), KeyWait(0))).keys == "4"
    assert (await line.wait_for_keys((), KeyWait(5))).keys == "7"
    line = ScriptedLine(ScriptedCallee("types", keys=("47", "1")), NO_WAITING)
    await line.wait_for_keys((PROMPT,), KeyWait(0))
    await line.listen(PROMPT)
    assert (await line.wait_for_keys((), KeyWait(5))).keys == "1"


@pytest.mark.parametrize(
    ("phone", "prompt", "keys"),
    [
        pytest.param("+14155550119", heard("Press", "four", "seven"), "47", id="presses what is asked for"),
        pytest.param("+14155550119", heard("Press", "four"), "", id="but not when more keys are wanted"),
        pytest.param("+14155550109", heard("Press", "four", "seven"), "", id="silent voicemail"),
        pytest.param("+14155550121", heard("Press", "four", "seven"), "", id="voicemail that beeps"),
        pytest.param("+14155550122", heard("Press", "four", "seven"), "11", id="voicemail with one tone"),
        pytest.param("+14155550123", heard("Press", "four", "seven"), "01", id="voicemail with all tones"),
    ],
)
async def test_who_presses_which_keys(phone: str, prompt: tuple[Sound, ...], keys: str) -> None:
    line = ScriptedLine(SCRIPTED_CALLEES[phone], NO_WAITING)
    for _ in range(3):
        assert (await line.wait_for_keys(prompt, TWO)).keys == keys
        await line.listen(PROMPT)


async def test_a_tone_interrupts_the_prompt_at_once() -> None:
    line = ScriptedLine(SCRIPTED_CALLEES["+14155550122"], NO_WAITING)
    assert (await line.wait_for_keys((PROMPT,), TWO)).seconds == pytest.approx(KEY_SECONDS)


# Elements of documents

GATHER = '<Gather action="https://otp.example.com/choice"{}><Speak>Press</Speak><Speak>four</Speak></Gather>'
GET_INPUT, GET_DIGITS = GATHER.replace("Gather", "GetInput"), GATHER.replace("Gather", "GetDigits")


async def posted_by(call_class: type[XmlCall], element: str, *keys: str) -> tuple[str | None, float]:
    """The digits that the action URL was told, and how long the call lasted."""
    customer = Customers(answer=element, choice="<Hangup/>")
    http = httpx.AsyncClient(transport=httpx.MockTransport(customer))
    sender = (
        vobiz_call.callback_sender(http, NO_WAITING, None)
        if call_class is VobizCall
        else plivo_call.callback_sender(http, NO_WAITING, None)
    )
    line = ScriptedLine(ScriptedCallee("types", keys=keys), NO_WAITING)
    call = call_class(xml_request(), line, NO_WAITING, Customs(), sender, "MA_TEST")
    await call.run()
    prompt_seconds = sum(speech(text, "en-US").seconds for text in ("Press", "four"))
    return dict(customer.asked).get("choice", {}).get("Digits"), call.talk_seconds - prompt_seconds


@pytest.mark.parametrize(
    ("call_class", "element"),
    [
        pytest.param(VobizCall, GATHER, id="Vobiz Gather"),
        pytest.param(PlivoCall, GET_INPUT, id="Plivo GetInput"),
        pytest.param(PlivoCall, GET_DIGITS, id="Plivo GetDigits"),
    ],
)
@pytest.mark.parametrize(
    ("attributes", "keys", "digits", "keys_waited_for"),
    [
        pytest.param(' numDigits="2"', "47", "47", 1, id="number of digits"),
        pytest.param(' numDigits="2"', "4", "4", None, id="one digit of two"),
        pytest.param("", "4711#", "4711", 4, id="usual finish key"),
        pytest.param(' finishOnKey="*"', "47#1*", "47#1", 4, id="another finish key"),
        pytest.param(' finishOnKey="none" numDigits="3"', "47#", "47#", 2, id="no finish key"),
        pytest.param("", "#", None, None, id="nothing but the finish key"),
    ],
)
async def test_an_element_takes_several_keys(
    call_class: type[XmlCall],
    element: str,
    attributes: str,
    keys: str,
    digits: str | None,
    keys_waited_for: int | None,
) -> None:
    posted, seconds = await posted_by(call_class, element.format(attributes), keys)
    assert posted == digits
    if keys_waited_for is not None:
        assert seconds == pytest.approx(keys_waited_for * KEY_SECONDS)


@pytest.mark.parametrize(
    ("call_class", "element", "attributes", "seconds"),
    [
        pytest.param(VobizCall, GATHER, "", 2, id="auto, inferred"),
        pytest.param(VobizCall, GATHER, ' digitEndTimeout="auto"', 2, id="auto, said"),
        pytest.param(VobizCall, GATHER, ' digitEndTimeout="7"', 7, id="said"),
        pytest.param(PlivoCall, GET_INPUT, ' digitEndTimeout="7"', 7, id="GetInput"),
        pytest.param(PlivoCall, GET_DIGITS, "", 2, id="GetDigits, documented"),
        pytest.param(PlivoCall, GET_DIGITS, ' digitTimeout="7"', 7, id="GetDigits, said"),
    ],
)
async def test_the_time_between_keys(
    call_class: type[XmlCall], element: str, attributes: str, seconds: float
) -> None:
    digits, took = await posted_by(call_class, element.format(' numDigits="2"' + attributes), "4")
    assert digits == "4"
    assert took == pytest.approx(seconds)


# A person in the browser


def phone_line(speed: float = 1.0) -> PhoneLine:
    return PhoneExchange(SimulatorClock(speed)).line("call-1", "+14155550142")


async def test_keys_are_taken_one_by_one_and_shown() -> None:
    line = phone_line(float("inf"))
    for key in "4711":
        line.press(key)
    prompt = heard("To hear it, press", "four", "seven")
    assert (await line.wait_for_keys(prompt, KeyWait(30, most=2, between_seconds=30))).keys == "47"
    assert (await line.wait_for_keys((), KeyWait(30))).keys == "1"


async def told_by(page: AsyncIterator[dict[str, Any] | None]) -> dict[str, Any]:
    return await anext(page) or {}


async def test_the_page_is_told_what_is_asked_and_what_is_typed() -> None:
    exchange = PhoneExchange(SimulatorClock(float("inf")))
    line, page = exchange.line("call-1", "+14155550142"), exchange.watch()
    await anext(page)
    waiting = asyncio.create_task(line.wait_for_keys(heard("Press", "four", "seven"), KeyWait(30, 2, 30)))
    told = [await told_by(page) for _ in range(4)]
    line.press("4")
    told.append(await told_by(page))
    line.press("8")
    assert (await waiting).keys == "48"
    assert [(one["event"], one.get("character"), *one["asked"].values()) for one in told] == [
        ("speaking", "", 2, "", "47"),
        ("speaking", "4", 2, "", "47"),
        ("speaking", "7", 2, "", "47"),
        ("waiting_for_key", None, 2, "", "47"),
        ("waiting_for_key", None, 2, "4", "7"),
    ]


async def test_keys_that_were_named_before_hold_for_a_wait_without_a_prompt() -> None:
    line = phone_line(float("inf"))
    line.press("4")
    await line.wait_for_keys(heard("Press", "four", "seven"), KeyWait(0))
    assert line._asked(KeyWait(5), "")["wanted"] == "7"
    await line.listen(PROMPT)
    assert line._asked(KeyWait(5), "")["wanted"] == ""


async def test_a_wait_with_too_few_keys_ends_by_itself() -> None:
    line = phone_line(float("inf"))
    line.press("4")
    assert (await line.wait_for_keys((PROMPT,), KeyWait(30, most=2, between_seconds=0))).keys == "4"
    assert (await line.wait_for_keys((), KeyWait(0))).keys == ""


async def test_a_person_can_hang_up_between_keys() -> None:
    line = phone_line()
    line.press("4")
    waiting = asyncio.create_task(line.wait_for_keys((PROMPT,), KeyWait(30, most=2, between_seconds=30)))
    line.hang_up()
    with pytest.raises(CalleeHungUp):
        await waiting
