"""What a backend asks for, before anything is decided."""

from dataclasses import dataclass, field

from verification import Call, Mode, Verification


@dataclass(frozen=True, slots=True)
class SendOrder:
    """One request for a code. `phone` is E.164; `code` is the backend's own, if it brought one.

    An alert brings its template and values in the place of a code, see `alert_templates.sealed_form`. `prompts`
    names a set of prompts, `voice` a voice. `mark` is that of its Idempotency-Key. `is_redial`: nobody asked for
    it, so the code that is running is sent, also where resends have a new one.
    """

    client: str
    phone: str = field(repr=False)
    channel: str
    language: str | None
    code: str | None = field(repr=False)
    code_length: int
    ttl_seconds: int
    max_replays: int
    hide_caller_id: bool
    provider: str | None
    reference: str | None
    mode: Mode = Mode.SPEAK
    prompts: str = ""
    voice: str = ""
    auto_replay: bool = False
    keys_first: int = 0
    template: str = ""
    is_redial: bool = False
    mark: bytes = b""


def order_again(record: Verification, call: Call, now: float) -> SendOrder:
    """What was asked for when a call was begun, as its record tells, for what is left of its code's life."""
    return SendOrder(
        client=record.client,
        phone=record.phone,
        channel="voice",
        language=call.language,
        code=None,
        code_length=call.code_length,
        ttl_seconds=max(1, int(record.expires_at - now)),
        max_replays=call.manner.max_replays,
        hide_caller_id=call.hide_caller_id,
        provider=call.provider if call.is_pinned else None,
        reference=record.reference,
        mode=record.mode,
        prompts=call.manner.prompts,
        voice=call.manner.voice,
        auto_replay=call.manner.auto_replay,
        keys_first=call.manner.keys_first,
        template=call.manner.template,
    )


class UnsupportedOption(Exception):
    """A request asks for something that this service, or the carrier in question, cannot do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field
        self.message = message
