"""A simulated call that follows a PHLO: from node to node, until no line leads on."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx

from simulator.answer_xml import BadXml
from simulator.call import CallEnded, Ending, SimulatedCall
from simulator.callbacks import Tries, Unreachable, deliver
from simulator.hangup_causes import hangup_causes
from simulator.lines import Sound
from simulator.phlo_canvas import Component, Node, Phlo, render, sounds_of

logger = logging.getLogger(__name__)

INPUT_SECONDS = 5.0  # the default of IVR Menu is not found
REPORT = Tries(seconds=5)  # neither time-out nor further tries of HTTP Request are found
CAUSES = hangup_causes("Plivo")

# Documented states of Initiate Call.
_STATES: Mapping[str, str] = {
    Ending.NO_ANSWER: "No Answer",
    Ending.BUSY: "Busy/Rejected",
    Ending.REJECTED: "Busy/Rejected",
    Ending.UNALLOCATED: "Failed",
    Ending.UNKNOWN_CALLER_ID: "Failed",
    Ending.MACHINE: "Voicemail",
}


@dataclass(eq=False)
class PhloCall(SimulatedCall):
    """A run of a PHLO. No way out of a node is documented for a callee who hangs up: nothing is reported of it."""

    phlo: Phlo
    payload: Mapping[str, str]
    http: httpx.AsyncClient = field(repr=False)

    def __post_init__(self) -> None:
        self._variables = {f"Start.http.params.{key}": value for key, value in self.payload.items()}
        self._counts: Counter[str] = Counter()

    @property
    def ending_code(self) -> str:
        return str(CAUSES[self.ending].code)

    @property
    def ending_name(self) -> str:
        return CAUSES[self.ending].name

    async def on_ringing(self) -> None:
        """No state of a PHLO says that the phone rings."""

    async def talk(self) -> None:
        await self._follow("call", "Answered")

    async def report_end(self) -> None:
        state = _STATES.get(self.ending)
        if state is not None:
            self._variables["call.hangup_cause"] = self.ending_code
            await self._follow("call", state)

    async def _follow(self, name: str, state: str) -> None:
        """Carry out the nodes that come after a state of a node."""
        following = self.phlo.after(name, state)
        while following is not None:
            state = await self._carry_out(following, self.phlo.nodes[following])
            following = self.phlo.after(following, state)

    async def _carry_out(self, name: str, node: Node) -> str:
        """Do what a node is for; the state that it comes to."""
        match node.component:
            case Component.PLAY_AUDIO:
                for sound in self._sounds(node):
                    await self.listen(sound)
                return "Prompt Completed"
            case Component.IVR_MENU:
                key = await self.wait_for_key(self._sounds(node), INPUT_SECONDS)
                return (key if key in node.lines else "Wrong Input") if key else "No Input"
            case Component.COUNTER:
                self._counts[name] += 1
                is_reached = self._counts[name] >= int(render(node.settings["max count"], self._variables))
                return "Count Reached" if is_reached else "Count Not Reached"
            case Component.HTTP_REQUEST:
                return await self._report(node)
            case _:
                return ""

    def _sounds(self, node: Node) -> tuple[Sound, ...]:
        try:
            return sounds_of(render(node.settings["speak"], self._variables), self.phlo.language)
        except BadXml as error:
            raise CallEnded("answer_invalid", str(error)) from None

    async def _report(self, node: Node) -> str:
        filled = {key: render(template, self._variables) for key, template in node.settings.items()}
        url = filled.pop("url")
        is_last = node.lines.get("Success", "hangup") == "hangup"
        if is_last and self.customs.loses_hangup_callback:
            return "Success"
        try:
            for _ in range(2 if self.customs.doubles_callbacks else 1):
                await deliver(lambda: self.http.post(url, json=filled), REPORT, self.clock)
        except Unreachable as error:
            logger.warning("simulated carrier: report of the PHLO was not taken: %s", error)
            return "Failed"
        return "Success"
