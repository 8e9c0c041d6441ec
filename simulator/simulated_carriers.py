"""The carriers that can be simulated: each with an account of its own, on one network of telephones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
from starlette.routing import BaseRoute

from simulator import vobiz_api
from simulator.clock import SimulatorClock
from simulator.network import Carrier
from simulator.phone import PhoneExchange
from simulator.vobiz_call import callback_sender


@dataclass(frozen=True, slots=True)
class Network:
    """What simulated carriers share, and how their accounts are set up. A limit of 0 is no limit."""

    clock: SimulatorClock
    phones: PhoneExchange
    from_number: str
    open_http: Callable[[], httpx.AsyncClient]
    calls_per_second: int = 0
    concurrent_calls: int = 0
    has_signatures: bool = True
    no_input_posts: bool = False


class SimulatedCarrier(NamedTuple):
    """A carrier, its API below `path`, and the settings with which a client reaches it there."""

    carrier: Carrier[Any]
    path: str
    routes: Sequence[BaseRoute]
    settings: Mapping[str, str]


def simulate(names: Sequence[str], base_url: str, network: Network) -> dict[str, SimulatedCarrier]:
    """Carriers by name, the first one first; `base_url` is where their routes will be served."""
    return {name: _MAKERS[name](base_url, network, name == names[0]) for name in names}


def _vobiz(base_url: str, network: Network, is_first: bool) -> SimulatedCarrier:
    path = "/simulator/api/v1"
    account = vobiz_api.new_account(network.from_number, network.calls_per_second, network.concurrent_calls)
    signing_token = account.auth_token if network.has_signatures else None
    carrier = vobiz_api.VobizCarrier(
        account,
        callback_sender(network.open_http(), network.clock, signing_token),
        network.clock,
        network.phones,
        no_input_posts=network.no_input_posts,
        is_first=is_first,
    )
    settings = {
        "vobiz_auth_id": account.auth_id,
        "vobiz_auth_token": account.auth_token,
        "vobiz_api_url": base_url + path,
    }
    return SimulatedCarrier(carrier, path, vobiz_api.routes(carrier), settings)


_MAKERS: Mapping[str, Callable[[str, Network, bool], SimulatedCarrier]] = {
    "simulator": _vobiz,
    "vobiz": _vobiz,
}
