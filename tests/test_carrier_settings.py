"""Settings of several carriers: which ones are meant, in which order, and what each cannot do without."""

from typing import Any

import pytest

from settings import Settings, load_settings
from tests.conftest import VOBIZ_TOKEN, keep_secret
from tests.test_settings import GUARDED, URL, problems_of
from voice_provider import SignaturePolicy

PLIVO_TOKEN = keep_secret("plivo-token-CANARY-0123456789")
CM_TOKEN = keep_secret("cm-product-token-CANARY-0123456789")
VOIPBIN_KEY = keep_secret("voipbin-access-key-CANARY-0123456789")
VOBIZ = {"vobiz_auth_id": "MA_TEST", "vobiz_auth_token": VOBIZ_TOKEN}
PLIVO = {"plivo_auth_id": "MAXXXXXXXXXXXXXXXXXX", "plivo_auth_token": PLIVO_TOKEN}
PHLO = {**PLIVO, "plivo_phlo_id": "5a9fd4a0-3d4c-11ef-bef9-0242ac110005"}
CM = {"cm_product_token": CM_TOKEN}
VOIPBIN = {"voipbin_access_key": VOIPBIN_KEY}
VOIPBIN_SECRET = {"voipbin_webhook_secret": keep_secret("voipbin-webhook-secret-CANARY-0123456789")}
COMMON = {**GUARDED, "from_number": "+12025550100", "public_url": URL}
ALL = {**COMMON, **VOBIZ, **PLIVO, **CM, **VOIPBIN}
NEEDS = {
    "vobiz": ["VOBIZ_AUTH_ID", "VOBIZ_AUTH_TOKEN", "FROM_NUMBER"],
    "plivo": ["PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN", "FROM_NUMBER"],
    "phlo": ["PLIVO_PHLO_ID", "PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN", "FROM_NUMBER"],
    "cm": ["CM_PRODUCT_TOKEN", "FROM_NUMBER"],
    "voipbin": ["VOIPBIN_ACCESS_KEY", "FROM_NUMBER"],
}
GIVEN = {"vobiz": VOBIZ, "plivo": PLIVO, "phlo": PHLO, "cm": CM, "voipbin": VOIPBIN}


def settings_of(**given: Any) -> Settings:
    return load_settings(**{**COMMON, **given})


def names_in(problems: list[str]) -> list[str]:
    return [problem.split()[0] for problem in problems]


# Which carriers, in which order


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param(VOBIZ, ("vobiz",), id="one"),
        pytest.param(CM, ("cm",), id="another one"),
        pytest.param({**VOIPBIN, **PLIVO, **VOBIZ}, ("vobiz", "plivo", "voipbin"), id="several, in our order"),
        pytest.param({**VOBIZ, **PHLO}, ("vobiz", "phlo"), id="a PHLO in the place of Plivo's XML"),
        pytest.param({**PHLO, "providers": "plivo"}, ("plivo",), id="Plivo's XML, although there is a PHLO"),
        pytest.param({**PHLO, "providers": "phlo,plivo"}, ("phlo", "plivo"), id="both"),
        pytest.param({**PLIVO, **CM, "providers": " cm , plivo "}, ("cm", "plivo"), id="with blanks"),
        pytest.param({**VOBIZ, **PLIVO, "providers": "plivo"}, ("plivo",), id="fewer than are set up"),
    ],
)
def test_providers_are_what_is_named_or_else_what_is_set_up(given: dict[str, Any], names: tuple[str, ...]) -> None:
    settings = settings_of(**given)
    assert settings.provider_names == names
    assert not settings.uses_simulator


@pytest.mark.parametrize("given", ["vobiz,pigeon", "vobiz,vobiz", "vobiz,,plivo", "Vobiz", ","])
def test_providers_that_are_no_list_of_carriers_are_one_line(given: str) -> None:
    (problem,) = problems_of(**{**ALL, "providers": given})
    assert problem.startswith("PROVIDERS must name each carrier once, out of vobiz, plivo, phlo, cm, voipbin")


# What each carrier needs


@pytest.mark.parametrize("name", NEEDS)
def test_a_carrier_that_is_named_without_settings_names_all_that_it_needs(name: str) -> None:
    assert names_in(problems_of(**GUARDED, public_url=URL, providers=name)) == NEEDS[name]


@pytest.mark.parametrize(
    ("name", "missing", "is_named"),
    [
        (name, setting, is_named)
        for name, settings in NEEDS.items()
        for setting in settings
        for is_named in (True, False)
        # What is left of these is a whole configuration of Plivo, or says nothing of any carrier.
        if is_named or setting not in ("PLIVO_PHLO_ID", "CM_PRODUCT_TOKEN", "VOIPBIN_ACCESS_KEY")
    ],
)
def test_half_a_configuration_is_an_error_that_names_the_other_half(
    name: str, missing: str, is_named: bool
) -> None:
    given = {**COMMON, **GIVEN[name], **({"providers": name} if is_named else {})}
    del given[missing.lower()]
    (problem,) = problems_of(**given)
    assert problem.startswith(f"{missing} is not set: {name} needs {', '.join(NEEDS[name])}")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("vobiz_auth_token", "vobiz"),
        ("vobiz_from_number", "vobiz"),
        ("plivo_auth_token", "plivo"),
        ("plivo_phlo_id", "phlo"),
        ("phlo_from_number", "phlo"),
        ("cm_from_number", "cm"),
        ("voipbin_from_number", "voipbin"),
    ],
)
def test_one_setting_of_a_carrier_says_that_it_is_meant(setting: str, name: str) -> None:
    value = "+12025550100" if setting.endswith("number") else keep_secret("lone-value-CANARY-0123456789")
    given = "FROM_NUMBER" if setting.endswith("number") else setting.upper()
    problems = problems_of(**GUARDED, public_url=URL, **{setting: value})
    assert names_in(problems) == [needed for needed in NEEDS[name] if needed != given]


def test_two_carriers_that_share_a_setting_miss_it_in_a_line_each() -> None:
    problems = problems_of(**{**COMMON, **PLIVO, "plivo_auth_token": "", "providers": "plivo,phlo"})
    assert names_in(problems) == ["PLIVO_AUTH_TOKEN", "PLIVO_PHLO_ID", "PLIVO_AUTH_TOKEN"]


def test_each_carrier_can_show_a_number_of_its_own() -> None:
    settings = settings_of(**ALL, plivo_from_number="+1 202 555 0101", cm_from_number="+442079460000")
    assert [settings.from_number_of(name) for name in settings.provider_names] == [
        "+12025550100", "+12025550101", "+442079460000", "+12025550100",
    ]  # fmt: skip


def test_numbers_of_the_carriers_are_enough_without_one_for_all() -> None:
    numbers = {"vobiz_from_number": "+12025550100", "cm_from_number": "+12025550101"}
    given = {**GUARDED, "public_url": URL, **VOBIZ, **CM}
    assert load_settings(**given, **numbers).provider_names == ("vobiz", "cm")
    del numbers["cm_from_number"]
    assert names_in(problems_of(**given, **numbers)) == ["FROM_NUMBER"]


@pytest.mark.parametrize("name", ["", *(f"{name}_" for name in NEEDS)])
def test_a_number_that_is_none_is_named(name: str) -> None:
    assert names_in(problems_of(**{**ALL, f"{name}from_number": "12"})) == [f"{name}from_number".upper()]


@pytest.mark.parametrize("name", NEEDS)
def test_each_carrier_has_a_pace_of_its_own(name: str) -> None:
    paced = settings_of(**ALL, **{f"{name}_calls_per_second": 7, f"{name}_concurrent_calls": 9})
    assert (paced.of_carrier(name, "calls_per_second"), paced.of_carrier(name, "concurrent_calls")) == (7, 9)
    others = [paced.of_carrier(other, "concurrent_calls") for other in NEEDS if other != name]
    assert others == [0, 0, 0, 0]


# Simulated carriers


@pytest.mark.parametrize("names", ["vobiz", "phlo", "cm,voipbin", "voipbin,cm,phlo,plivo,vobiz"])
def test_any_list_of_carriers_can_be_played_on_this_machine(names: str) -> None:
    settings = load_settings(simulate=True, providers=names, sms_providers="plivo,cm,voipbin")
    assert settings.provider_names == tuple(names.split(","))
    assert settings.uses_simulator
    assert settings.serves_api_docs
    assert not settings.needs_tunnel


def test_carriers_that_are_set_up_can_be_played_as_they_are() -> None:
    settings = settings_of(**ALL, simulate=True)
    assert settings.provider_names == ("vobiz", "plivo", "cm", "voipbin")
    assert settings.uses_simulator


def test_simulating_nobody_in_particular_is_one_line() -> None:
    for given in ({}, {"providers": "simulator"}, {"providers": "simulator,vobiz"}):
        (problem,) = problems_of(simulate=True, **given)
        assert problem.startswith("PROVIDERS names the simulator beside a carrier: SIMULATE=true plays all")


def test_production_is_not_played_unless_the_carriers_are_named() -> None:
    production = {**ALL, "environment": "production", "simulate": True}
    assert names_in(problems_of(**production)) == ["ENVIRONMENT"]
    assert load_settings(**production, providers="plivo").uses_simulator


# Routes


def test_routes_name_carriers_for_single_regions() -> None:
    assert settings_of(**ALL, provider_routes="IN=vobiz+plivo, US=cm").provider_names == (
        "vobiz", "plivo", "cm", "voipbin",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ("IN=vobiz+phlo", "PROVIDER_ROUTES names a carrier that PROVIDERS does not: known are vobiz, plivo, cm"),
        ("IN=pigeon", "PROVIDER_ROUTES names a carrier that PROVIDERS does not"),
        ("IN=vobiz+vobiz", "PROVIDER_ROUTES must be pairs such as IN=vobiz+plivo,US=plivo"),
        ("IN=", "PROVIDER_ROUTES must be pairs"),
        ("IN=vobiz+", "PROVIDER_ROUTES must be pairs"),
        ("XX=vobiz", "PROVIDER_ROUTES must be pairs"),
        ("in=vobiz", "PROVIDER_ROUTES must be pairs"),
        ("vobiz", "PROVIDER_ROUTES must be pairs"),
    ],
)
def test_a_route_that_leads_nowhere_is_one_line(routes: str, words: str) -> None:
    (problem,) = problems_of(**{**ALL, "provider_routes": routes})
    assert problem.startswith(words)


# Text messages


def test_messages_have_carriers_of_their_own() -> None:
    settings = settings_of(**VOBIZ, **PLIVO, **CM, providers="vobiz", sms_providers=" cm , plivo ")
    assert (settings.provider_names, settings.sms_provider_names) == (("vobiz",), ("cm", "plivo"))
    assert settings_of(**VOBIZ).sms_provider_names == ()


@pytest.mark.parametrize("names", ["vobiz", "phlo", "plivo,pigeon", "Plivo", ",", "simulator", "cm,plivo,cm"])
def test_a_carrier_that_sends_no_messages_or_is_named_twice_is_one_line(names: str) -> None:
    (problem,) = problems_of(**{**ALL, "sms_providers": names})
    assert problem == "SMS_PROVIDERS must be some of plivo, cm, voipbin, each of them once"


@pytest.mark.parametrize("name", ["plivo", "cm", "voipbin"])
def test_a_carrier_of_messages_names_what_it_needs(name: str) -> None:
    problems = problems_of(**COMMON, **VOBIZ, **VOIPBIN_SECRET, providers="vobiz", sms_providers=name)
    assert names_in(problems) == NEEDS[name][:-1]


@pytest.mark.parametrize("name", ["plivo", "cm", "voipbin"])
def test_a_sender_of_messages_is_enough_where_nobody_is_called(name: str) -> None:
    given = {**GUARDED, "public_url": URL, **VOBIZ, **GIVEN[name], "vobiz_from_number": "+12025550100"}
    given |= {**VOIPBIN_SECRET, "providers": "vobiz", "sms_providers": name}
    assert names_in(problems_of(**given)) == ["FROM_NUMBER"]
    assert load_settings(**given, **{f"{name}_sms_sender": "Acme"}).sms_provider_names == (name,)
    assert names_in(problems_of(**{**given, f"{name}_sms_sender": "Acme", "providers": f"vobiz,{name}"})) == [
        "FROM_NUMBER"
    ]


# Signatures


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"sms_providers": "voipbin"}, "all reports on voipbin's text messages", id="messages"),
        pytest.param({"webhook_signatures": "required"}, "refuses all of voipbin's callbacks", id="signed calls"),
        pytest.param(
            {"webhook_signatures": "required", "sms_providers": "voipbin"},
            "all reports on voipbin's text messages",
            id="both",
        ),
    ],
)
def test_voipbin_without_the_secret_of_its_signatures_is_one_line(given: dict[str, Any], words: str) -> None:
    given = {**COMMON, **VOIPBIN, **given}
    (problem,) = problems_of(**given)
    assert problem.startswith("VOIPBIN_WEBHOOK_SECRET is not set: ")
    assert words in problem
    assert load_settings(**given, **VOIPBIN_SECRET).provider_names == ("voipbin",)
    assert load_settings(**given, simulate=True).uses_simulator, "a simulated one brings its own"


@pytest.mark.parametrize("given", [{}, {"webhook_signatures": "when_present"}])
def test_calls_through_voipbin_need_no_signatures_unless_they_are_required(given: dict[str, str]) -> None:
    assert settings_of(**VOIPBIN, **given).provider_names == ("voipbin",)


# Redials


def test_redials_are_off_by_default_and_can_be_set() -> None:
    assert settings_of(**VOBIZ).redial_reasons == frozenset()
    settings = settings_of(
        **VOBIZ, **CM, redial_on="busy, no_answer", redial_through="sms", redial_times=3, sms_providers="cm"
    )
    assert settings.redial_reasons == {"busy", "no_answer"}
    assert (settings.redial_times, settings.redial_through, settings.redial_after_seconds) == (3, "sms", 30)


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({"redial_on": "failed"}, "REDIAL_ON must be some of busy, no_answer, rejected"),
        ({"redial_on": "busy,answered_and_spoken"}, "REDIAL_ON must be some of"),
        ({"redial_times": 0}, "REDIAL_TIMES: "),
        ({"redial_times": 4}, "REDIAL_TIMES: "),
        ({"redial_after_seconds": 4}, "REDIAL_AFTER_SECONDS: "),
        ({"redial_after_seconds": 301}, "REDIAL_AFTER_SECONDS: "),
        ({"redial_through": "pigeon"}, "REDIAL_THROUGH: "),
        ({"redial_on": "busy", "redial_through": "sms"}, "REDIAL_THROUGH is sms, but SMS_PROVIDERS names no"),
        (
            {"redial_on": "busy", "redial_after_seconds": 29},
            "REDIAL_AFTER_SECONDS is 29, but RESEND_AFTER_SECONDS",
        ),
        (
            {"redial_on": "busy", "resend_after_seconds": 31},
            "REDIAL_AFTER_SECONDS is 30, but RESEND_AFTER_SECONDS",
        ),
        ({"redial_on": "busy", "code_ttl_seconds": 59}, "REDIAL_AFTER_SECONDS is 30, which leaves less than 30"),
        (
            {"redial_on": "busy", "redial_after_seconds": 271},
            "REDIAL_AFTER_SECONDS is 271, which leaves less than",
        ),
    ],
)
def test_a_wrong_redial_setting_is_one_line(given: dict[str, Any], start: str) -> None:
    (problem,) = problems_of(**{**ALL, **given})
    assert problem.startswith(start)


def test_a_redial_can_come_as_soon_as_a_resend_and_as_late_as_the_code_is_of_use() -> None:
    assert settings_of(**VOBIZ, redial_on="busy", code_ttl_seconds=60).redial_after_seconds == 30
    assert settings_of(**VOBIZ, redial_after_seconds=5, code_ttl_seconds=30).redial_reasons == frozenset()


def test_through_whom_does_not_matter_while_nothing_is_redialled() -> None:
    assert settings_of(**VOBIZ, redial_through="sms").redial_reasons == frozenset()


# URLs

API_URLS = {
    "vobiz_api_url": "vobiz",
    "plivo_api_url": "plivo",
    "plivo_phlo_url": "phlo",
    "cm_api_url": "cm",
    "cm_sms_url": "cm",
    "voipbin_api_url": "voipbin",
}


@pytest.mark.parametrize("name", API_URLS)
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://api.example.com/v1", "must start with https://"),
        ("api.example.com", "is not an absolute URL"),
        ("https://key@api.example.com", "must have no query, fragment or user name"),
        ("https://api.example.com/v1?key=1", "must have no query, fragment or user name"),
    ],
)
def test_credentials_go_to_an_api_over_tls_only(name: str, url: str, words: str) -> None:
    (problem,) = problems_of(**{**ALL, name: url})
    assert problem.startswith(f"{name.upper()} {words}")


@pytest.mark.parametrize("name", API_URLS)
def test_an_api_on_this_machine_needs_no_tls(name: str) -> None:
    carrier = API_URLS[name]
    given = {**GIVEN[carrier], "providers": carrier, name: "http://127.0.0.1:9000/v1/"}
    assert getattr(settings_of(**given), name) == "http://127.0.0.1:9000/v1"


HERE = "http://127.0.0.1:9000/v1"


@pytest.mark.parametrize(
    ("given", "is_fine"),
    [
        pytest.param({"providers": "vobiz", "vobiz_api_url": HERE}, True, id="the one carrier is here"),
        pytest.param(
            {"providers": "vobiz,plivo", "vobiz_api_url": HERE, "plivo_api_url": HERE}, True, id="both are here"
        ),
        pytest.param({"providers": "vobiz,plivo", "vobiz_api_url": HERE}, False, id="one of two is here"),
        pytest.param({"providers": "phlo", **PHLO, "plivo_api_url": HERE}, False, id="another API is here"),
        pytest.param({"providers": "phlo", **PHLO, "plivo_phlo_url": HERE}, True, id="the PHLO is here"),
        pytest.param(
            {"providers": "vobiz", "vobiz_api_url": HERE, "sms_providers": "plivo"},
            False,
            id="reports of messages come from outside",
        ),
        pytest.param(
            {"providers": "cm", "cm_api_url": HERE, "sms_providers": "cm"}, False, id="the gateway is outside"
        ),
        pytest.param(
            {"providers": "cm", "cm_api_url": HERE, "sms_providers": "cm", "cm_sms_url": HERE},
            True,
            id="calls and messages are here",
        ),
        pytest.param({"providers": "vobiz,cm", "simulate": True}, True, id="all are played"),
    ],
)
def test_a_public_url_on_loopback_needs_all_carriers_there(given: dict[str, Any], is_fine: bool) -> None:
    given = {**ALL, "public_url": "http://localhost:8000", **given}
    if is_fine:
        assert load_settings(**given).public_url == "http://localhost:8000"
    else:
        (problem,) = problems_of(**given)
        assert problem.startswith("PUBLIC_URL is a loopback address, which a carrier cannot reach")


def test_signatures_are_wanted_as_each_carrier_gives_them_unless_the_operator_says_more() -> None:
    assert settings_of(**ALL).webhook_signatures is None
    required = settings_of(**ALL, **VOIPBIN_SECRET, webhook_signatures="required")
    assert required.webhook_signatures is SignaturePolicy.REQUIRED


def test_no_setting_of_a_carrier_shows_its_secrets() -> None:
    secret = keep_secret("webhook-secret-CANARY-0123456789")
    settings = settings_of(**ALL, voipbin_webhook_secret=secret)
    shown = repr(settings) + settings.model_dump_json()
    assert not any(one in shown for one in (PLIVO_TOKEN, CM_TOKEN, VOIPBIN_KEY, secret, VOBIZ_TOKEN))
