"""F2, P6: a worker that is killed at any point of a call costs no second call, and another one goes on with it."""

import pytest

from bench import crashes

pytestmark = pytest.mark.untraced  # the services are other processes


def test_a_worker_that_dies_in_a_request_costs_no_second_call() -> None:
    found = crashes.crash_requests(crashes.SEND_POINTS, crashes.FAILOVER_POINTS)
    assert found.broken == []
    assert found.crashes == len(crashes.SEND_POINTS) + len(crashes.FAILOVER_POINTS)
    assert found.went_on == 5, "calls that the carrier took were told and checked by the other worker"
    assert found.most_calls == 1


def test_a_worker_that_dies_with_a_job_is_taken_over() -> None:
    found = crashes.crash_jobs(crashes.QUEUE_POINTS, crashes.REDIAL_POINTS)
    assert found.broken == []
    assert found.crashes == len(crashes.QUEUE_POINTS) + len(crashes.REDIAL_POINTS)
    assert found.taken_over == len(crashes.TAKEN_OVER)
    assert found.most_calls == 1
