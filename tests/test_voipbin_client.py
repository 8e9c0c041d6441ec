"""VoIPBin on the wire: what we send, how each answer is understood, whose events are believed."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from call_script import Pacing, PlayAudio, Speak, WholeCall
from tests.conftest import keep_secret
from tests.whole_calls import whole_call, words_of
from voice_provider import (
    AccountRefused,
    CallEvent,
    CallOrder,
    CallOutcomeUnknown,
    CallRejected,
    CallState,
    CallUrls,
    EndReason,
    MachineDetection,
    ProviderError,
    ProviderThrottled,
    ProviderUnavailable,
    RawWebhook,
    SignaturePolicy,
    WebhookRejected,
)
from voipbin_client import VoipbinClient, VoipbinConfig, actions_of

PAYLOADS = Path(__file__).parent / "payloads" / "voipbin"
CALL_ID = "0b6c1a52-0000-4000-8000-000000000001"
ACCESS_KEY = "vb_access-key-CANARY-0123456789"
WEBHOOK_SECRET = "voipbin-webhook-secret-CANARY-01"
CODE = "482913"
SCRIPT = whole_call(CODE, app_name="Fish & Chips")
ORDER = CallOrder(
    to="+14155550142",
    from_number="+12025550100",
    urls=CallUrls(
        *(
            f"https://otp.example.com/{name}/T"
            for name in ("answer", "fallback", "choice", "hangup", "ring", "events")
        )
    ),
    ring_timeout_seconds=30,
    time_limit_seconds=150,
    script=SCRIPT,
)

Vendor = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _secrets() -> None:
    for secret in (ACCESS_KEY, WEBHOOK_SECRET, CODE, ORDER.to):
        keep_secret(secret)


def payload(name: str) -> Any:
    return json.loads((PAYLOADS / f"{name}.json").read_text())


def client_of(vendor: Vendor, seconds: float = 0.0, **config: Any) -> VoipbinClient:
    """A client whose carrier is a function that takes so many seconds."""
    given = {"access_key": ACCESS_KEY, "from_number": "+12025550100", **config}
    http = httpx.AsyncClient(transport=httpx.MockTransport(vendor))

    def time() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += seconds

    return VoipbinClient(
        VoipbinConfig(api_url="https://api.voipbin.test/v1.0/", **given), http, now=time().__next__
    )


def answering(status: int, body: object = None, **headers: str) -> Vendor:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return lambda _: httpx.Response(status, content=content, headers=headers)


def failing(error: Exception) -> Vendor:
    def vendor(_: httpx.Request) -> httpx.Response:
        raise error

    return vendor


async def request_for(order: CallOrder) -> httpx.Request:
    """What is sent for an order."""
    seen: list[httpx.Request] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=payload("create_call"))

    assert await client_of(vendor).place_call(order) == CALL_ID
    (request,) = seen
    return request


# Placing a call


async def test_a_call_is_placed_with_its_whole_course() -> None:
    request = await request_for(ORDER)
    assert (request.method, str(request.url)) == ("POST", "https://api.voipbin.test/v1.0/calls")
    body = json.loads(request.content)
    assert body == {
        "source": {"type": "tel", "target": "+12025550100"},
        "destinations": [{"type": "tel", "target": "+14155550142"}],
        "anonymous": "no",
        "actions": actions_of(ORDER, SCRIPT),
    }


async def test_the_access_key_is_a_cookie_and_nothing_else() -> None:
    """A Bearer header would be read as another credential and hide it; a query ends up in logs."""
    request = await request_for(ORDER)
    assert request.headers["cookie"] == f"accesskey={ACCESS_KEY}"
    assert "authorization" not in request.headers
    assert ACCESS_KEY not in str(request.url)


async def test_a_cookie_that_the_carrier_sets_does_not_come_back_to_hide_the_access_key() -> None:
    cookies: list[str] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        cookies.append(request.headers["cookie"])
        return httpx.Response(200, json=payload("create_call"), headers={"set-cookie": "token=stray; Path=/"})

    client = client_of(vendor)
    await client.place_call(ORDER)
    await client.place_call(ORDER)
    assert cookies == [f"accesskey={ACCESS_KEY}"] * 2


async def test_the_caller_id_is_hidden_only_when_wanted() -> None:
    request = await request_for(replace(ORDER, hide_caller_id=True))
    assert json.loads(request.content)["anonymous"] == "yes"


async def test_the_id_is_found_in_the_bare_array_of_older_pages_too() -> None:
    assert await client_of(answering(200, payload("create_call_bare_array"))).place_call(ORDER) == CALL_ID


# The actions

Actions = list[dict[str, Any]]


def actions_for(script: WholeCall) -> Actions:
    return actions_of(ORDER, script)


def kinds(actions: Actions) -> list[str]:
    return [action["type"] for action in actions]


def event_kinds(actions: Actions) -> list[tuple[str, int]]:
    """The events that a call sends: their types, and the numbers of readings."""
    told = [json.loads(action["option"]["data"]) for action in actions if action["type"] == "webhook_send"]
    return [(event["type"], event["data"].get("reading", 0)) for event in told]


def texts_of(actions: Actions) -> list[str]:
    """What is said, without markup, in order."""
    texts = [action["option"]["text"] for action in actions if action["type"] == "talk"]
    return [" ".join(" ".join(ElementTree.fromstring(text).itertext()).split()) for text in texts]


def events_action(kind: str, **data: Any) -> dict[str, Any]:
    return {
        "sync": False,
        "uri": "https://otp.example.com/events/T",
        "method": "POST",
        "data_type": "application/json",
        "data": json.dumps({"type": kind, "data": {"id": "${voipbin.call.id}", **data}}),
    }


def test_a_call_without_replays_reads_the_code_twice_and_hangs_up() -> None:
    actions = actions_for(whole_call(CODE, app_name="Fish & Chips", max_replays=0))
    pause = '<break time="1s"/>'
    spelled = pause + pause.join(words_of(CODE))
    assert [action.get("option") for action in actions] == [
        events_action("otp_answered"),
        {"duration": 1000},
        {
            "text": "<speak>Hello. This is your verification code for Fish &amp; Chips.</speak>",
            "language": "en-US",
        },
        {"text": f"<speak>Your code is{spelled}</speak>", "language": "en-US"},
        {"duration": 1000},
        {"text": f"<speak>Once more. Your code is{spelled}</speak>", "language": "en-US"},
        events_action("otp_reading", reading=1),
        {"text": "<speak>Goodbye.</speak>", "language": "en-US"},
        None,
    ]
    assert kinds(actions) == [
        *("webhook_send", "sleep", "talk", "talk", "sleep", "talk", "webhook_send", "talk", "hangup")
    ]


def test_a_call_is_read_at_the_operators_pace() -> None:
    pacing = Pacing(0.5, digit_pause_seconds=0.3, reading_pause_seconds=3, readings=3, speech_rate=80)
    actions = actions_for(whole_call("12", pacing=pacing, max_replays=0))
    assert [action["option"]["duration"] for action in actions if action["type"] == "sleep"] == [500, 3000, 3000]
    parts = [f'<prosody rate="80%">{text}</prosody>' for text in ("Your code is", "one", "two")]
    assert actions[3]["option"]["text"] == "<speak>" + '<break time="0.3s"/>'.join(parts) + "</speak>"
    assert texts_of(actions)[2:4] == ["Once more. Your code is one two"] * 2


def test_without_pauses_characters_are_words_of_their_own() -> None:
    pacing = Pacing(lead_in_seconds=0, digit_pause_seconds=0)
    assert "Your code is one two" in texts_of(actions_for(whole_call("12", pacing=pacing)))


def test_the_operators_ssml_stands_in_the_place_of_words() -> None:
    ssml = 'Bye <break time="300ms"/> for now, ${voipbin.call.id}.'
    goodbye = Speak("Bye for now.", "en-US", rate=90, ssml=ssml)
    (talk,) = [action for action in actions_for(SCRIPT._replace(goodbye=goodbye)) if "Bye" in str(action)]
    inside = 'Bye <break time="300ms"/> for now, {voipbin.call.id}.'
    assert talk["option"]["text"] == f'<speak><prosody rate="90%">{inside}</prosody></speak>'


# Where a call goes


def walk(actions: Actions, *presses: str) -> Actions:
    """The actions that are carried out, as VoIPBin does it (source), where these keys are waited for in turn."""
    places = {action["id"]: place for place, action in enumerate(actions) if "id" in action}
    done: Actions = []
    place, pressed, keys = 0, list(presses), ""
    while place < len(actions):
        action = actions[place]
        option = action.get("option", {})
        done.append(action)
        place += 1
        match action["type"]:
            case "digits_receive":
                keys = pressed.pop(0) if pressed else ""
            case "branch":
                place = places[option["target_ids"].get(keys, option["default_target_id"])]
            case "goto":
                assert option["loop_count"] == 1, "which is never, where it is 0"
                place = places[option["target_id"]]
            case "hangup":
                break
    assert done[-1]["type"] == "hangup"
    return done


@pytest.mark.parametrize("replays", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("auto_replay", [False, True])
def test_every_branch_leads_on_and_every_way_ends_with_a_hangup(replays: int, auto_replay: bool) -> None:
    keys = ("42", "17")
    actions = actions_for(whole_call(CODE, keys=keys, max_replays=replays, auto_replay=auto_replay))
    places = {action["id"]: place for place, action in enumerate(actions) if "id" in action}
    assert len(places) == len([action for action in actions if "id" in action])
    for place, action in enumerate(actions):
        option = action.get("option", {})
        targets = [
            *option.get("target_ids", {}).values(),
            option.get("default_target_id"),
            option.get("target_id"),
        ]
        assert all(places[target] > place for target in targets if target), "nothing runs twice"
    assert kinds(actions)[-2:] == ["talk", "hangup"]
    most = 1 + min(replays, 3)
    assert event_kinds(walk(actions, "42", *"1" * 9)) == [
        ("otp_answered", 0),
        *[("otp_reading", reading) for reading in range(1, most + 1)],
    ]


def test_key_1_leads_to_the_next_reading_and_any_other_one_to_the_offer_once_more() -> None:
    reading = ["Your code is", "Once more. Your code is"]
    again = ["Once more. Your code is"] * 2
    offer = "To hear the code again, press 1."

    def said(*presses: str) -> list[str]:
        texts = texts_of(walk(actions_for(whole_call("7")), *presses))
        return [text.removesuffix(" seven") for text in texts[1:]]

    assert said() == [*reading, offer, offer, "Goodbye."]
    assert said("9") == [*reading, offer, offer, "Goodbye."]
    assert said("", "1") == [*reading, offer, offer, *again, offer, offer, "Goodbye."]
    assert said("1", "1", "1") == [*reading, *[offer, *again] * 3, "Goodbye."]


def test_replays_that_come_by_themselves_are_offered_to_nobody() -> None:
    actions = actions_for(whole_call(CODE, max_replays=2, auto_replay=True))
    assert not {"branch", "digits_receive"} & set(kinds(actions))
    assert event_kinds(actions) == [
        *(("otp_answered", 0), ("otp_reading", 1), ("otp_reading", 2), ("otp_reading", 3))
    ]


def test_the_code_is_told_only_to_who_presses_the_keys() -> None:
    actions = actions_for(whole_call("7", keys=("42", "17"), max_replays=0))
    asked = "Hello. This is a call from Example with a code for you. To hear it, press"
    first, second = f"{asked} four two", f"{asked} one seven"
    code = ["Your code is seven", "Once more. Your code is seven"]
    heard: list[tuple[tuple[str, ...], list[str], list[tuple[str, int]]]] = [
        (("42",), [first, *code], [("otp_reading", 1)]),
        (("", "17"), [first, second, *code], [("otp_reading", 1)]),
        (("17", "17"), [first, second, *code], [("otp_reading", 1)]),
        (("4", "42"), [first, second], [("otp_no_keys", 0)]),
        (("", ""), [first, second], [("otp_no_keys", 0)]),
    ]
    for presses, texts, events in heard:
        done = walk(actions, *presses)
        assert texts_of(done) == [*texts, "Goodbye."], presses
        assert event_kinds(done) == [("otp_answered", 0), *events]


def test_ids_of_targets_are_uuids_that_voipbin_does_not_reserve() -> None:
    actions = actions_for(whole_call(CODE, keys=("42", "17")))
    ids = [action["id"] for action in actions if "id" in action]
    assert len(set(ids)) == len(ids) == 4 + 3 + 3 + 1  # readings, second offers, tries and their end, goodbye
    assert all(re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name) for name in ids)
    assert not any(name.startswith("00000000") for name in ids)


@pytest.mark.parametrize(("keys", "seconds"), [("4", 5), ("42", 10)])
def test_keys_are_waited_for_five_or_ten_seconds_and_end_their_prompt_but_never_the_code(
    keys: str, seconds: int
) -> None:
    actions = actions_for(whole_call(CODE, keys=(keys, keys)))
    for place in [place for place, kind in enumerate(kinds(actions)) if kind == "digits_receive"]:
        is_menu = "press 1" in str(actions[place - 1])
        length, duration = (1, 5) if is_menu else (len(keys), seconds)
        assert actions[place]["option"] == {"duration": duration * 1000, "length": length}
        assert actions[place - 1]["option"]["digits_handle"] == "next"
        assert actions[place + 1]["type"] == "branch", "which forgets the keys"
    interruptible = [action for action in actions if "digits_handle" in action.get("option", {})]
    assert len(interruptible) == kinds(actions).count("digits_receive")
    for word in words_of(CODE):
        told = [action for action in actions if f'<break time="1s"/>{word}' in str(action)]
        assert told
        assert not any(action in interruptible for action in told)


def test_a_machine_is_hung_up_on_before_anything_is_said() -> None:
    actions = actions_of(replace(ORDER, machine_detection=MachineDetection.HANGUP), SCRIPT)
    place = kinds(actions).index("amd")
    assert actions[place]["option"] == {"machine_handle": "hangup", "async": False}
    assert "talk" not in kinds(actions)[:place]
    assert "amd" not in kinds(actions_of(ORDER, SCRIPT))


@pytest.mark.parametrize("code", ["482913", "AB12", "0000000000"])
def test_characters_of_the_code_stand_alone_between_breaks(code: str) -> None:
    (talk, *_) = [
        action["option"]["text"]
        for action in actions_for(whole_call(code))
        if "Your code is" in str(action.get("option"))
    ]
    document = ElementTree.fromstring(talk)
    assert document.text == "Your code is"
    assert [child.tag for child in document] == ["break"] * len(code)
    assert [child.tail for child in document] == words_of(code)


# Recordings


def sound(name: str) -> PlayAudio:
    return PlayAudio(f"https://otp.example.com/audio/{name}.wav", 1, f"words of {name}")


def played(actions: Actions) -> list[list[str]]:
    """What is played, action by action; words where they are spoken."""
    urls = [action["option"].get("stream_urls") for action in actions if action["type"] in ("play", "talk")]
    names = [[Path(url).stem for url in some] if some else [] for some in urls]
    spoken = iter(texts_of(actions))
    return [some or [next(spoken)] for some in names]


def test_a_recorded_code_is_played_in_one_piece() -> None:
    """An action that fails is skipped: a file that cannot be played must not leave a code with a gap."""
    script = whole_call("12", max_replays=1)._replace(
        greeting=sound("greeting"),
        code_prompt=sound("code_prompt"),
        again=sound("again"),
        replay_prompt=sound("menu"),
        goodbye=sound("goodbye"),
        spelled=(sound("1"), sound("2")),
    )
    again = ["again", "1", "2"]
    assert played(actions_for(script)) == [
        ["greeting"],
        ["code_prompt", "1", "2"],
        again,
        ["menu"],
        ["menu"],
        again,
        again,
        ["goodbye"],
    ]
    assert "digits_handle" not in str(actions_for(script)), "which no recording has"


def test_what_is_partly_recorded_is_played_and_spoken_in_its_order() -> None:
    script = whole_call("12", keys=("4", "2"), max_replays=0)
    first, second = script.keys_first
    key_greeting, *asked = first.prompt
    first = first._replace(prompt=(sound("key_greeting"), *asked))
    script = script._replace(code_prompt=sound("code_prompt"), keys_first=(first, second))
    assert played(actions_for(script)) == [
        ["key_greeting"],
        ["To hear it, press four"],
        [f"{key_greeting.text} To hear it, press two"],
        ["code_prompt"],
        ["one two"],
        ["Once more. Your code is one two"],
        ["Goodbye."],
    ]
    assert event_kinds(walk(actions_for(script), "", "2")) == [("otp_answered", 0), ("otp_reading", 1)]


@pytest.mark.parametrize(
    ("app_name", "said"),
    [
        ("Fish & <Chips>", "Fish &amp; &lt;Chips&gt;"),
        ("${voipbin.call.id}", "{voipbin.call.id}"),
        ("$${x}", "{x}"),
        ("$5", "$5"),
        ("bell\x07", "bell"),
    ],
)
def test_a_setting_can_bring_neither_ssml_nor_variables_into_a_call(app_name: str, said: str) -> None:
    actions = actions_for(SCRIPT._replace(greeting=Speak(f"For {app_name}.", "en-US")))
    assert f"<speak>For {said}.</speak>" in [action.get("option", {}).get("text") for action in actions]


# How answers are understood

FROZEN = {"error": {"status": "PERMISSION_DENIED", "reason": "ACCOUNT_FROZEN"}}
FOREIGN = {"error": {"status": "PERMISSION_DENIED", "reason": "DIRECT_ACCESS_NOT_SUPPORTED"}}
NO_ID = {"calls": [{"id": "00000000-0000-0000-0000-000000000000"}]}


@pytest.mark.parametrize(
    ("vendor", "error", "message"),
    [
        pytest.param(answering(400, payload("error_400_action")), CallRejected, "INVALID_ACTION", id="400"),
        pytest.param(answering(401, payload("error_401")), AccountRefused, "VOIPBIN_ACCESS_KEY", id="401"),
        pytest.param(answering(401), AccountRefused, "VOIPBIN_ACCESS_KEY", id="401, no body"),
        pytest.param(answering(402, payload("error_402")), AccountRefused, "balance", id="402"),
        pytest.param(
            answering(403, payload("error_403_identity")), AccountRefused, "verified", id="403, identity"
        ),
        pytest.param(answering(403, payload("error_403_permission")), AccountRefused, "admin", id="403, no admin"),
        pytest.param(answering(403, FROZEN), AccountRefused, "frozen", id="403, frozen"),
        pytest.param(answering(403, FOREIGN), CallRejected, "does not allow", id="403, of this request"),
        pytest.param(answering(404), CallRejected, "VOIPBIN_API_URL", id="404"),
        pytest.param(answering(418, {"error": "x"}), CallRejected, "418", id="another 4xx"),
        pytest.param(answering(429, payload("error_429")), ProviderThrottled, "no more", id="429"),
        pytest.param(
            answering(500, payload("error_500")), CallRejected, "destination_whitelist", id="500 INTERNAL"
        ),
        pytest.param(answering(503, payload("error_503")), ProviderUnavailable, "in trouble", id="503"),
        pytest.param(
            answering(503, payload("error_503_timeout")), CallOutcomeUnknown, "TIMEOUT", id="503, not waited for"
        ),
        pytest.param(answering(500, b"oops"), CallOutcomeUnknown, "500", id="500 of something else"),
        pytest.param(answering(500, {"error": {"reason": 5}}), CallOutcomeUnknown, "500", id="500, odd reason"),
        pytest.param(answering(504, b"<html>" * 90_000), CallOutcomeUnknown, "504", id="504 of a gateway, huge"),
        pytest.param(answering(200, {"calls": [], "groupcalls": []}), CallOutcomeUnknown, "id", id="no call"),
        pytest.param(answering(200, NO_ID), CallOutcomeUnknown, "id", id="nil id"),
        pytest.param(answering(200, {"id": CALL_ID}), CallOutcomeUnknown, "id", id="no list of calls"),
        pytest.param(answering(200, {"calls": ["x"]}), CallOutcomeUnknown, "id", id="a list of words"),
        pytest.param(answering(200, {"calls": [{"id": "a b"}]}), CallOutcomeUnknown, "id", id="odd id"),
    ],
)
async def test_each_failure_says_what_may_be_done_next(
    vendor: Vendor, error: type[ProviderError], message: str
) -> None:
    asked = 0

    def counting(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return vendor(request)

    with pytest.raises(ProviderError, match=message) as raised:
        await client_of(counting).place_call(ORDER)
    assert type(raised.value) is error
    assert asked == 1, "a request for a call is never sent twice"
    for secret in ("4155550142", ACCESS_KEY, CODE, "request_id"):
        assert secret not in str(raised.value)


@pytest.mark.parametrize(("name", "early"), [("error_500", CallRejected), ("error_503", ProviderUnavailable)])
async def test_an_error_that_comes_late_may_hide_a_call_that_rings(name: str, early: type[ProviderError]) -> None:
    """The API's gateway waits 3 seconds for the service that dials, and says the same when it gives up."""
    status = int(name.removeprefix("error_"))
    with pytest.raises(early):
        await client_of(answering(status, payload(name)), seconds=2.9).place_call(ORDER)
    with pytest.raises(CallOutcomeUnknown, match="may have been carried out"):
        await client_of(answering(status, payload(name)), seconds=3.0).place_call(ORDER)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), (None, 1), ("soon", 1), ("99999", 3600)])
async def test_a_throttled_call_says_when_to_try_again(header: str | None, seconds: int) -> None:
    headers = {"retry-after": header} if header is not None else {}
    with pytest.raises(ProviderThrottled) as raised:
        await client_of(answering(429, payload("error_429"), **headers)).place_call(ORDER)
    assert raised.value.retry_after_seconds == seconds


# Ending and looking up a call


@pytest.mark.parametrize(
    ("status", "body", "was_live"),
    [
        pytest.param(200, payload("call_terminating")["data"], True, id="answered call"),
        pytest.param(200, payload("call_canceling")["data"], True, id="ringing call"),
        pytest.param(200, payload("call_hangup_remote")["data"], False, id="ended before"),
        pytest.param(404, payload("error_404_call"), False, id="unknown"),
        pytest.param(409, payload("error_409_hangup"), False, id="ended, by another page"),
    ],
)
async def test_hanging_up_tells_whether_the_call_was_live(status: int, body: Any, was_live: bool) -> None:
    paths: list[str] = []

    def vendor(request: httpx.Request) -> httpx.Response:
        paths.append(f"{request.method} {request.url.path}")
        return httpx.Response(status, json=body)

    assert await client_of(vendor).hang_up(CALL_ID) is was_live
    assert paths == [f"POST /v1.0/calls/{CALL_ID}/hangup"]


@pytest.mark.parametrize(
    ("name", "state", "reason"),
    [
        ("call_created", CallState.DIALING, None),
        ("call_ringing", CallState.RINGING, None),
        ("call_updated", CallState.ANSWERED, None),
        ("call_hangup_busy", CallState.COMPLETED, EndReason.BUSY),
    ],
)
async def test_a_call_is_looked_up(name: str, state: CallState, reason: EndReason | None) -> None:
    event = await client_of(answering(200, payload(name)["data"])).look_up(CALL_ID)
    assert event is not None
    assert (event.call_id, event.state, event.end_reason) == (CALL_ID, state, reason)


async def test_a_call_that_voipbin_does_not_know_is_none() -> None:
    assert await client_of(answering(404, payload("error_404_call"))).look_up(CALL_ID) is None
    assert await client_of(answering(409, payload("error_409_hangup"))).look_up(CALL_ID) is None
    assert await client_of(answering(200, {})).look_up(CALL_ID) is None
    assert await client_of(answering(200, payload("call_ringing")["data"])).look_up("another") is None


async def test_a_look_up_that_fails_is_an_error() -> None:
    with pytest.raises(ProviderUnavailable, match="in trouble"):
        await client_of(answering(500, payload("error_500"))).look_up(CALL_ID)
    with pytest.raises(AccountRefused):
        await client_of(answering(401)).look_up(CALL_ID)


CREATED_AT = 1_768_469_400.118204  # 2026-01-15T09:30:00.118204Z


@pytest.mark.parametrize(
    ("answer", "to", "placed_after", "state"),
    [
        pytest.param(payload("calls"), ORDER.to, CREATED_AT, CallState.RINGING, id="there"),
        pytest.param(payload("calls")["result"], ORDER.to, CREATED_AT, CallState.RINGING, id="bare list"),
        pytest.param(payload("calls"), ORDER.to, CREATED_AT + 1, None, id="only earlier ones"),
        pytest.param(payload("calls"), "+14155550143", CREATED_AT, None, id="another callee"),
        pytest.param({"result": [{}, 5, {"destination": 5}]}, ORDER.to, CREATED_AT, None, id="odd list"),
    ],
)
async def test_a_call_without_a_known_id_is_found_by_its_callee(
    answer: Any, to: str, placed_after: float, state: CallState | None
) -> None:
    event = await client_of(answering(200, answer)).find_call(to, placed_after)
    assert (event and event.state) == state
    assert event is None or event.call_id == CALL_ID


async def test_a_full_page_does_not_prove_that_there_is_no_call() -> None:
    full = {"result": payload("calls")["result"][:1] * 50}
    with pytest.raises(CallOutcomeUnknown, match="more calls"):
        await client_of(answering(200, full)).find_call("+14155550143", CREATED_AT)


@pytest.mark.parametrize("answer", [b"", b"<html>", {}, payload("call_ringing"), {"result": None}])
async def test_an_answer_without_a_list_does_not_say_that_there_is_no_call(answer: Any) -> None:
    with pytest.raises(ProviderUnavailable, match="without its list"):
        await client_of(answering(200, answer)).find_call(ORDER.to, CREATED_AT)


# Signatures

VECTOR_KEY = "test-secret"
# This vector was computed from the public code's formula with two independent HMAC implementations.
VECTOR_BODY = b'{"type":"call_hangup","data":{"id":"0b6c1a52-0000-4000-8000-000000000001"}}'
VECTOR_SIGNATURE = "sha256=dc94f433e6f67ad536ba69231452845466e8643466dfbb07ee322a32706ea4fe"


def checking(policy: str = "when_present", secret: str = VECTOR_KEY) -> VoipbinClient:
    return client_of(answering(200), webhook_secret=secret, signature_policy=SignaturePolicy(policy))


def signed_with(signature: str | None, body: bytes = VECTOR_BODY) -> RawWebhook:
    headers = {} if signature is None else {"x-voipbin-signature": signature}
    return RawWebhook(("https://otp.example.com/events/T",), headers, body)


def test_the_signature_of_the_public_code_is_accepted() -> None:
    checking("required").check_webhook(signed_with(VECTOR_SIGNATURE))
    checking().check_webhook(signed_with(VECTOR_SIGNATURE), must_be_signed=True)


@pytest.mark.parametrize("policy", list(SignaturePolicy))
@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(VECTOR_SIGNATURE[:-1] + "f", id="altered"),
        pytest.param(VECTOR_SIGNATURE[:-2], id="cut"),
        pytest.param(VECTOR_SIGNATURE.removeprefix("sha256="), id="no prefix"),
        pytest.param("sha1" + VECTOR_SIGNATURE[6:], id="another algorithm"),
        pytest.param("", id="empty"),
        pytest.param("é" * 71, id="not ASCII"),
        pytest.param("x" * 10_000, id="10 KB"),
    ],
)
def test_a_wrong_signature_is_refused_by_every_policy(policy: SignaturePolicy, signature: str) -> None:
    with pytest.raises(WebhookRejected, match="VOIPBIN_WEBHOOK_SECRET"):
        checking(policy).check_webhook(signed_with(signature))


def test_a_signature_is_over_every_byte_of_the_body() -> None:
    with pytest.raises(WebhookRejected):
        checking().check_webhook(signed_with(VECTOR_SIGNATURE, VECTOR_BODY + b" "))


def test_an_unsigned_event_passes_only_where_the_policy_lets_it() -> None:
    checking().check_webhook(signed_with(None))
    with pytest.raises(WebhookRejected, match="not signed"):
        checking("required").check_webhook(signed_with(None))
    with pytest.raises(WebhookRejected, match="not signed"):
        checking().check_webhook(signed_with(None), must_be_signed=True)


@pytest.mark.parametrize("signature", [None, VECTOR_SIGNATURE, "wrong"])
def test_without_a_secret_only_the_call_token_can_let_an_event_in(signature: str | None) -> None:
    checking(secret="").check_webhook(signed_with(signature))
    with pytest.raises(WebhookRejected, match="VOIPBIN_WEBHOOK_SECRET is not set"):
        checking(secret="").check_webhook(signed_with(signature), must_be_signed=True)
    with pytest.raises(WebhookRejected, match="VOIPBIN_WEBHOOK_SECRET is not set"):
        checking("required", secret="").check_webhook(signed_with(signature))


def test_events_that_are_not_checked_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for client in (checking(), checking(secret="")):
        for _ in range(3):
            client.check_webhook(signed_with(None))
    assert caplog.text.count("VoIPBin events are not checked") == 2


# Events


def event_in(document: object, expected: CallState | None = None) -> CallEvent:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return checking().parse_event(RawWebhook(("https://otp.example.com/events/T",), {}, body), expected)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("call_created", CallState.DIALING),
        ("call_ringing", CallState.RINGING),
        ("call_progressing", CallState.ANSWERED),
        ("call_updated", CallState.ANSWERED),
        ("call_terminating", CallState.ANSWERED),
        ("call_canceling", CallState.DIALING),
        ("call_hangup_local", CallState.COMPLETED),
        ("otp_answered", CallState.ANSWERED),
        ("otp_reading", CallState.ANSWERED),
        ("otp_no_keys", CallState.ANSWERED),
        ("activeflow_updated", None),
    ],
)
def test_events_say_where_the_call_is(name: str, state: CallState | None) -> None:
    event = event_in(payload(name))
    assert (event.call_id, event.state) == (CALL_ID, state)


def test_a_late_event_tells_the_state_of_now_and_not_of_its_name() -> None:
    late = payload("call_ringing")
    late["data"]["status"] = "progressing"
    assert event_in(late).state is CallState.ANSWERED


def test_a_reading_that_was_played_is_told_by_its_number() -> None:
    assert event_in(payload("otp_reading")).reading == 1
    assert event_in({"type": "otp_reading", "data": {"id": CALL_ID, "reading": 4}}).reading == 4
    assert event_in(payload("otp_answered")).reading == 0


def test_keys_that_were_not_pressed_are_told() -> None:
    assert event_in(payload("otp_no_keys")) == CallEvent(CALL_ID, CallState.ANSWERED, is_without_keys=True)
    assert not event_in(payload("otp_answered")).is_without_keys


@pytest.mark.parametrize(
    ("name", "reason", "cause", "talk_seconds"),
    [
        ("local", None, "normal by local", 41),
        ("remote", None, "normal by remote", 41),
        ("noanswer", EndReason.NO_ANSWER, "noanswer by remote", None),
        ("dialout", EndReason.NO_ANSWER, "dialout by remote", None),
        ("busy", EndReason.BUSY, "busy by remote", None),
        ("failed", EndReason.FAILED, "failed by remote", None),
        ("cancel", EndReason.CANCELLED, "cancel by local", None),
        ("timeout", None, "timeout by local", 3600),
        ("amd", EndReason.VOICEMAIL, "amd by local", 4),
        ("older_form", None, "normal by remote", 41),
        ("older_form_unanswered", EndReason.BUSY, "busy by remote", None),
    ],
)
def test_hangup_reasons_are_translated_and_kept(
    name: str, reason: EndReason | None, cause: str, talk_seconds: int | None
) -> None:
    event = event_in(payload(f"call_hangup_{name}"))
    assert event.state is CallState.COMPLETED
    assert (event.end_reason, event.hangup_cause, event.talk_seconds) == (reason, cause, talk_seconds)
    assert event.was_answered is (talk_seconds is not None)


@pytest.mark.parametrize(
    ("changes", "reason", "cause"),
    [
        pytest.param({"hangup_reason": "moon"}, EndReason.UNKNOWN, "moon by remote", id="unknown word"),
        pytest.param({"hangup_reason": None}, None, "by remote", id="no reason"),
        pytest.param({"hangup_by": None, "hangup_reason": "busy"}, EndReason.BUSY, "busy", id="no side"),
        pytest.param({"hangup_reason": ["busy"]}, None, "by remote", id="a list"),
        pytest.param(
            {"hangup_reason": "<b>\n\x1b[31m" + "A" * 500, "hangup_by": ""},
            EndReason.UNKNOWN,
            "(not shown)",
            id="hostile",
        ),
    ],
)
def test_odd_hangup_reasons_do_no_harm(changes: Any, reason: EndReason | None, cause: str) -> None:
    document = payload("call_hangup_remote")
    document["data"].update(changes)
    event = event_in(document)
    assert (event.state, event.end_reason, event.hangup_cause) == (CallState.COMPLETED, reason, cause)


@pytest.mark.parametrize("value", [None, "", "soon", "9999-01-01T00:00:00Z", 5, "2026-01-15T09:29:00Z"])
def test_odd_times_give_no_talk_time(value: Any) -> None:
    document = payload("call_hangup_remote")
    document["data"]["tm_hangup"] = value
    assert event_in(document).talk_seconds in (None, 0)


@pytest.mark.parametrize("kind", ["message_updated", "number_created", "otp_something", "new"])
def test_events_about_anything_else_say_nothing(kind: str) -> None:
    assert event_in({"type": kind, "data": {"id": "x"}}) == CallEvent("x")


@pytest.mark.parametrize("status", ["moon", "", None, ["hangup"], 5])
def test_an_unknown_status_is_no_state(status: Any) -> None:
    assert event_in({"type": "call_updated", "data": {"id": CALL_ID, "status": status}}).state is None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"type=call_hangup", id="a form"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"type": "call_hangup"}', id="no data"),
        pytest.param(b'{"type": "call_hangup", "data": []}', id="data is a list"),
        pytest.param(b'{"type": 1, "data": {"id": "x"}}', id="type is a number"),
        pytest.param(b'{"type": "call_hangup", "data": {}}', id="no id"),
        pytest.param(b'{"type": "call_hangup", "data": {"id": "a b"}}', id="odd id"),
        pytest.param(b'{"type": "call_hangup", "data": {"id": "x", "id": "y"}}', id="id twice"),
        pytest.param(b'{"type": "otp_reading", "data": {"id": "${voipbin.call.id}"}}', id="not substituted"),
        pytest.param(b'{"type": "otp_reading", "data": {"id": "x"}}', id="no reading"),
        pytest.param(b'{"type": "otp_reading", "data": {"id": "x", "reading": 5}}', id="reading too high"),
        pytest.param(b'{"type": "otp_reading", "data": {"id": "x", "reading": "1"}}', id="reading is a text"),
        pytest.param(b'{"type": "activeflow_updated", "data": {"id": "x"}}', id="flow of no call"),
    ],
)
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRejected) as refused:
        event_in(body)
    assert refused.value.status == 400


def test_no_payload_makes_the_client_log_a_code_or_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """The watch over logs fails this test if one does; unknown words are the only ones that are shown."""
    for path in sorted(PAYLOADS.glob("*.json")):
        document = json.loads(path.read_text())
        if "data" in document:
            event_in(document)
            document["data"].update(status="unheard-of", hangup_reason="unheard-of")
            event_in(document)
    assert CODE not in caplog.text


def test_secrets_do_not_show_in_representations() -> None:
    config = VoipbinConfig(ACCESS_KEY, "+12025550100", "https://x", webhook_secret=WEBHOOK_SECRET)
    for secret in (ACCESS_KEY, WEBHOOK_SECRET, "2025550100"):
        assert secret not in repr(config)
    assert ACCESS_KEY not in repr(vars(client_of(answering(200))))


def test_nothing_is_rendered() -> None:
    assert checking().render((), ORDER.urls) == b""
    assert not checking().capabilities.fetches_script


def test_every_language_is_on_the_carriers_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "voipbin.md").read_text()
    assert all(tag in page for tag in VoipbinClient.capabilities.languages)
