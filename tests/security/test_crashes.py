"""F2, P6: a worker that is killed at any point of a call costs no second call, and another one goes on with it.

The short form of what `make prove` runs at every point.
"""

import pytest

from bench import crashes

pytestmark = [pytest.mark.untraced, pytest.mark.timeout(300)]  # many services start, which are other processes


def test_a_worker_that_dies_in_a_request_costs_no_second_call() -> None:
    points = ("after the intent is kept", crashes.KILLED_AFTER, "before the answer to the backend")
    found = crashes.crash_requests(points, [crashes.KILLED_AFTER])
    assert found.broken == []
    assert (found.crashes, found.most_calls) == (4, 1)
    assert found.went_on == 3, "calls that the carrier took were told and checked by the other worker"


def test_a_worker_that_dies_with_a_job_is_taken_over() -> None:
    queue_points = ("before a queued call's job", "while a queued call waits")
    found = crashes.crash_jobs(queue_points, ["before a redial is kept"])
    assert found.broken == []
    assert (found.crashes, found.most_calls, found.taken_over) == (3, 1, 3)
