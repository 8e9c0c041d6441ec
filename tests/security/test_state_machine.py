"""A3, B1, B2, B3, C3, D6, D10, G6: what holds whatever happens, in whatever order."""

from hypothesis import settings

from otp_store import MemoryOtpStore, OtpStore, StoreRules
from tests.conftest import FakeTime
from tests.store_cases import SEALER
from tests.store_machine import StoreMachine


class MemoryStoreMachine(StoreMachine):
    def make_store(self, time: FakeTime, rules: StoreRules) -> OtpStore:
        return MemoryOtpStore(SEALER, time.clock, rules)


class TestMemoryStore(MemoryStoreMachine.TestCase):  # type: ignore[misc, valid-type]  # hypothesis makes it at run time
    settings = settings(derandomize=True, deadline=None, max_examples=300, stateful_step_count=50)
