"""The carriers that can be simulated: each with an account of its own, on one network of telephones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import httpx
from starlette.routing import BaseRoute

from simulator import cm_account, cm_api, phlo_api, plivo_api, vobiz_api, voipbin_api
from simulator.clock import SimulatorClock
from simulator.network import Carrier
from simulator.phone import PhoneExchange
from simulator.vobiz_call import callback_sender
from simulator.voipbin_events import EventSender


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
    # Plivo's XML and its PHLOs are used with one account.
    plivo_auth_id: str = field(default_factory=lambda: plivo_api.new_account("").auth_id)
    plivo_auth_token: str = field(default_factory=lambda: plivo_api.new_account("").auth_token, repr=False)


class SimulatedCarrier(NamedTuple):
    """A carrier, its API below `path`, and the settings with which a client reaches it there."""

    carrier: Carrier[Any]
    path: str
    routes: Sequence[BaseRoute]
    settings: Mapping[str, str | bool]


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


def _plivo(base_url: str, network: Network, is_first: bool) -> SimulatedCarrier:
    path = "/simulator/plivo/v1"
    account = plivo_api.new_account(network.from_number, network.calls_per_second, network.concurrent_calls)
    account = replace(account, auth_id=network.plivo_auth_id, auth_token=network.plivo_auth_token)
    carrier = plivo_api.PlivoCarrier(
        account,
        network.open_http(),
        network.clock,
        network.phones,
        is_signing=network.has_signatures,
        is_first=is_first,
    )
    settings = {
        "plivo_auth_id": account.auth_id,
        "plivo_auth_token": account.auth_token,
        "plivo_api_url": base_url + path,
    }
    return SimulatedCarrier(carrier, path, plivo_api.routes(carrier), settings)


def _phlo(base_url: str, network: Network, is_first: bool) -> SimulatedCarrier:
    path = "/simulator/phlo/v1"
    account = phlo_api.new_account(network.from_number, network.calls_per_second, network.concurrent_calls)
    account = replace(account, auth_id=network.plivo_auth_id, auth_token=network.plivo_auth_token)
    carrier = phlo_api.PhloCarrier(account, network.open_http(), network.clock, network.phones, is_first=is_first)
    settings: dict[str, str | bool] = {
        "plivo_auth_id": account.auth_id,
        "plivo_auth_token": account.auth_token,
        "plivo_phlo_id": account.phlo_id,
        "plivo_phlo_url": base_url + path,
        "phlo_reports_back": True,
    }
    return SimulatedCarrier(carrier, path, phlo_api.routes(carrier), settings)


def _cm(base_url: str, network: Network, is_first: bool) -> SimulatedCarrier:
    path = "/simulator/cm"
    account = cm_account.new_account(network.from_number, network.calls_per_second, network.concurrent_calls)
    carrier = cm_api.CmCarrier(
        account,
        network.open_http(),
        network.clock,
        network.phones,
        report_url=f"{base_url}/message/cm",
        is_first=is_first,
    )
    settings = {
        "cm_product_token": account.product_token,
        "cm_api_url": base_url + path,
        "cm_sms_url": base_url + path + cm_api.GATEWAY_PATH,
    }
    return SimulatedCarrier(carrier, path, cm_api.routes(carrier), settings)


def _voipbin(base_url: str, network: Network, is_first: bool) -> SimulatedCarrier:
    path = "/simulator/voipbin/v1.0"
    account = voipbin_api.new_account(
        network.from_number,
        f"{base_url}/events/voipbin",
        calls_per_second=network.calls_per_second,
        concurrent_calls=network.concurrent_calls,
    )
    sender = EventSender(network.open_http(), network.clock, account.webhook_secret)
    carrier = voipbin_api.VoipbinCarrier(account, sender, network.clock, network.phones, is_first=is_first)
    settings = {
        "voipbin_access_key": account.access_key,
        "voipbin_webhook_secret": account.webhook_secret,
        "voipbin_api_url": base_url + path,
    }
    return SimulatedCarrier(carrier, path, voipbin_api.routes(carrier), settings)


_MAKERS: Mapping[str, Callable[[str, Network, bool], SimulatedCarrier]] = {
    "simulator": _vobiz,
    "vobiz": _vobiz,
    "plivo": _plivo,
    "phlo": _phlo,
    "cm": _cm,
    "voipbin": _voipbin,
}
