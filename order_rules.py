"""From a backend's request to an order: what the settings add to it, and what it may not ask for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from alert_templates import AlertTemplate, BadValues, sealed_form
from app_models import SendAlert, SendOtp
from prompt_sets import PromptSets
from send_order import SendOrder, UnsupportedOption
from verification import Mode


@dataclass(frozen=True, slots=True)
class OrderRules:
    """`voices` are all that any carrier has."""

    ttl_seconds: int
    allow_short_codes: bool
    require_keypress: bool
    keypress_digits: int
    auto_replay: bool
    prompt_sets: PromptSets
    voices: Collection[str]
    templates: Mapping[str, AlertTemplate]

    def code_order(self, client: str, body: SendOtp) -> SendOrder:
        """Raises: UnsupportedOption."""
        is_keyed = self.require_keypress if body.require_keypress is None else body.require_keypress
        mode = Mode(body.mode)
        if body.channel == "sms" and body.require_keypress:
            raise UnsupportedOption("require_keypress", "is not possible with a text message: it has no keys")
        return SendOrder(
            client=client,
            phone=body.phone,
            channel=body.channel,
            language=body.language,
            code=body.code,
            code_length=self._code_length(body, mode),
            ttl_seconds=body.ttl_seconds or self.ttl_seconds,
            max_replays=body.max_replays,
            hide_caller_id=body.hide_caller_id,
            provider=body.provider,
            reference=body.reference,
            mode=mode,
            prompts=self._prompts(client, body.prompts),
            voice=self._voice(body.voice),
            auto_replay=self.auto_replay if body.auto_replay is None else body.auto_replay,
            keys_first=self.keypress_digits if is_keyed else 0,
        )

    def alert_order(self, client: str, body: SendAlert) -> SendOrder:
        """Raises: UnsupportedOption."""
        template = self.templates.get(body.template)
        if template is None:
            raise UnsupportedOption("template", _one_of(self.templates))
        try:
            values = template.check(body.fields)
        except BadValues as error:
            raise UnsupportedOption(*_first_problem(error)) from None
        content = sealed_form(template.name, values)
        return SendOrder(
            client=client,
            phone=body.phone,
            channel="voice",
            language=body.language,
            code=content,
            code_length=0,
            ttl_seconds=body.ttl_seconds or self.ttl_seconds,
            max_replays=1 if template.acknowledge else 0,  # it comes once more unless it is acknowledged
            hide_caller_id=body.hide_caller_id,
            provider=body.provider,
            reference=body.reference,
            mode=Mode.ALERT,
            prompts=self._prompts(client, body.prompts),
            voice=self._voice(body.voice),
            template=template.name,
        )

    def _code_length(self, body: SendOtp, mode: Mode) -> int:
        if body.code is not None and body.code_length not in (None, len(body.code)):
            raise UnsupportedOption("code_length", "does not fit the code: leave it out when you bring a code")
        if mode is Mode.KEYPAD and body.code is not None and not body.code.isdigit():
            raise UnsupportedOption("code", "must be digits in keypad mode: they are typed on a phone")
        length = body.code_length or (len(body.code) if body.code else 6)
        if length < 6 and not self.allow_short_codes:
            field = "code" if body.code else "code_length"
            raise UnsupportedOption(field, "must have at least 6 characters unless ALLOW_SHORT_CODES is set")
        return length

    def _prompts(self, client: str, wanted: str | None) -> str:
        prompt_set = self.prompt_sets.choose(wanted, client)
        if prompt_set is None:
            raise UnsupportedOption("prompts", _one_of(self.prompt_sets.names))
        return prompt_set.name

    def _voice(self, wanted: str | None) -> str:
        if wanted is not None and not self.voices:
            raise UnsupportedOption("voice", "cannot be chosen with these carriers")
        if wanted is not None and wanted not in self.voices:
            raise UnsupportedOption("voice", _one_of(self.voices))
        return wanted or ""


def _first_problem(error: BadValues) -> tuple[str, str]:
    field, message = error.errors[0]
    return (f"fields.{field}" if field else "fields"), message


def _one_of(names: Collection[str]) -> str:
    return f"must be one of {', '.join(dict.fromkeys(names))}" if names else "is not known: PROMPTS_FILE has none"
