"""A2, A3, A4, A6, B1, B2, B3, C3, C6, D4, D6, D10, G6: what holds whatever happens, in whatever order."""

import os

import pytest
from hypothesis import settings

from number_page import StoreRules
from otp_store import MemoryOtpStore, OtpStore
from tests.conftest import FakeTime
from tests.security.service_machine import ServiceMachine
from tests.store_cases import SEALER
from tests.store_machine import StoreMachine

pytestmark = pytest.mark.untraced

IS_LONG = bool(os.environ.get("PROVE"))  # `make prove`


class MemoryStoreMachine(StoreMachine):
    def make_store(self, time: FakeTime, rules: StoreRules) -> OtpStore:
        return MemoryOtpStore(SEALER, time.clock, rules)


class TestMemoryStore(MemoryStoreMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(
        derandomize=True, deadline=None, max_examples=2000 if IS_LONG else 300, stateful_step_count=50
    )


class TestService(ServiceMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(
        derandomize=True, deadline=None, max_examples=500 if IS_LONG else 100, stateful_step_count=40
    )
