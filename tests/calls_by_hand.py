"""A call whose carrier is played by the test: it fetches documents, says which keys were pressed, and hangs up."""

from typing import Any, NamedTuple
from xml.etree import ElementTree

import httpx

from tests.conftest import RunningService, keep_secret

PHONE = "+14155550142"  # which rings in the browser, where nobody is
DIGITS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9",
}  # fmt: skip


class Document(NamedTuple):
    """What a document says, in order, and where it leads: `keys` is how many are waited for, `ends` a hangup."""

    texts: list[str]
    languages: set[str]
    voices: set[str]
    played: list[str]
    keys: int
    action: str
    redirect: str
    ends: bool

    @property
    def code(self) -> str:
        """The digits that are said, one by one, the first six of them."""
        return "".join(DIGITS[text] for text in self.texts if text in DIGITS)[:6]

    @property
    def spoken_digits(self) -> str:
        return "".join(DIGITS[text] for text in self.texts if text in DIGITS)

    def says(self, text: str) -> bool:
        return any(text in one for one in self.texts)


def read(body: bytes) -> Document:
    root = ElementTree.fromstring(body)
    speaks = list(root.iter("Speak"))
    gather = root.find("Gather")
    return Document(
        texts=["".join(one.itertext()) for one in speaks],
        languages={one.attrib["language"] for one in speaks},
        voices={one.attrib["voice"] for one in speaks},
        played=[one.text or "" for one in root.iter("Play")],
        keys=int(gather.attrib["numDigits"]) if gather is not None else 0,
        action=gather.attrib["action"] if gather is not None else "",
        redirect=root.findtext("Redirect") or "",
        ends=root.find("Hangup") is not None,
    )


class CallByHand:
    def __init__(self, service: RunningService, sent: dict[str, Any]) -> None:
        self.service = service
        self.sent = sent
        self.id: str = sent["verification_id"]
        simulated = service.carrier.calls[sent["call_uuid"]]
        self.token: str = keep_secret(simulated.request.answer.url.split("/")[-1].split("?")[0])

    async def post(self, url: str, **fields: str) -> httpx.Response:
        answer = await self.service.client.post(url, data={"CallUUID": self.sent["call_uuid"], **fields})
        assert answer.status_code == 200, answer.status_code
        return answer

    async def answer(self) -> Document:
        """The callee picks up."""
        return read((await self.post(f"/answer/{self.token}?n=1", Event="StartApp")).content)

    async def press(self, document: Document, keys: str = "") -> Document:
        """What follows on these keys, or on none."""
        return read((await self.post(document.action or document.redirect, Digits=keys)).content)

    async def go_on(self, document: Document) -> Document:
        """Follow a redirect."""
        return read((await self.post(document.redirect, Event="Redirect")).content)

    async def hang_up(self, seconds: int = 30) -> dict[str, Any]:
        """The call ends; its status then."""
        fields = {"Event": "Hangup", "HangupCauseCode": "4000", "Duration": str(seconds)}
        await self.post(f"/hangup/{self.token}", **fields)
        return await self.status()

    async def status(self) -> dict[str, Any]:
        return await self.service.status(self.id)


async def begin_call(service: RunningService, **fields: Any) -> CallByHand:
    answer = await service.send(PHONE, **fields)
    assert answer.status_code == 200, answer.text
    return CallByHand(service, answer.json())


async def begin_alert(service: RunningService, template: str, **fields: Any) -> CallByHand:
    keep_secret(PHONE)
    answer = await service.client.post("/send-alert", json={"phone": PHONE, "template": template, **fields})
    assert answer.status_code == 200, answer.text
    return CallByHand(service, answer.json())
