"""Rows that tests elsewhere prove, or help to prove. All other tests of a row are named after it."""

PROVEN_BY: dict[str, tuple[str, ...]] = {
    "A1": (
        "tests/test_sealing.py::test_codes_come_from_the_systems_random_source",
        "tests/test_sealing.py::test_codes_have_the_asked_length_and_keep_leading_zeros",
    ),
    "A2": (
        "tests/store_cases.py::StoreCases::test_a_code_is_right_until_its_deadline_and_not_after",
        "tests/store_cases.py::StoreCases::test_no_clock_lengthens_the_life_of_a_code",
    ),
    "A3": ("tests/store_cases.py::StoreCases::test_of_many_checks_at_once_one_succeeds",),
    "A4": (
        "tests/store_cases.py::StoreCases::test_new_codes_on_resend_kill_the_old_one_at_once",
        "tests/store_cases.py::StoreCases::test_a_verification_is_its_clients_own",
    ),
    "A5": (
        "tests/store_cases.py::StoreCases::test_a_code_is_sealed_and_erased_once_it_is_worthless",
        "tests/test_sealing.py::test_a_code_is_sealed_for_one_verification",
    ),
    "A6": ("tests/test_watch.py::test_a_secret_is_found_in_a_message_and_in_its_details",),
    "B1": ("tests/store_cases.py::StoreCases::test_of_many_wrong_codes_at_once_five_are_compared",),
    "B2": (
        "tests/store_cases.py::StoreCases::test_wrong_codes_are_counted_over_all_codes_and_clients_of_a_number",
        "tests/store_cases.py::StoreCases::test_each_wrong_code_from_the_fifth_on_costs_a_longer_wait",
        "tests/store_cases.py::StoreCases::test_a_success_forgives_the_failures",
    ),
    "B3": ("tests/store_cases.py::StoreCases::test_a_new_code_forgives_nothing",),
    "B6": ("tests/test_otp_store.py::test_an_attempt_is_kept_before_the_code_is_compared",),
    "B8": ("tests/test_phone_numbers.py::test_anything_else_is_refused_with_a_hint_and_no_echo",),
    "B9": ("tests/test_access.py::test_an_address_is_believed_as_far_as_trusted_proxies_wrote_it",),
    "C3": ("tests/store_cases.py::StoreCases::test_a_number_has_one_live_call_whoever_asked_for_it",),
    "C6": (
        "tests/guard_store_cases.py::GuardStoreCases::test_no_window_is_ever_passed_and_every_told_wait_is_true",
        "tests/guard_store_cases.py::GuardStoreCases::test_all_charges_are_counted_or_none",
    ),
    "C7": (
        "tests/test_vobiz_client.py::test_a_call_is_placed_with_every_limit_and_url",
        "tests/test_app_api.py::test_a_call_has_as_many_replays_as_the_limit_has_room_for_and_the_time_for_them",
    ),
    "C8": ("tests/test_access.py::test_keys_are_kept_as_keyed_hashes_only",),
    "E2": (
        "tests/security/test_a_secret.py::test_a5_redis_is_never_told_a_code_or_a_number",
        "tests/test_redis_guard_store.py::test_nothing_that_was_counted_or_remembered_can_be_read_in_redis",
    ),
    "F3": (
        "tests/test_dialer.py::test_what_proves_that_nothing_was_dialled_moves_the_call_to_the_next_carrier",
        "tests/test_dialer.py::test_what_may_have_dialled_moves_nothing_while_the_carrier_can_still_tell",
        "tests/test_dialer.py::test_a_carrier_that_knows_no_such_call_is_followed_by_the_next_one_in_time",
        "tests/test_dialer.py::test_a_carrier_that_tells_nothing_of_a_call_never_gets_a_second_one_beside_it",
    ),
    "F4": (
        "tests/test_carrier_line.py::test_five_failures_in_thirty_seconds_take_a_carrier_down",
        "tests/test_carrier_line.py::test_one_probe_is_let_through_when_the_time_is_over",
        "tests/test_dialer.py::test_one_deadline_holds_for_all_carriers_together",
    ),
    "F5": (
        "tests/test_carrier_line.py::test_no_second_has_more_starts_than_the_pace_however_calls_arrive",
        "tests/test_dialer.py::test_no_call_is_placed_after_half_of_its_codes_life",
    ),
    "H2": (
        "tests/test_settings.py::test_settings_are_frozen_and_do_not_show_secrets",
        "tests/test_vobiz_client.py::test_secrets_do_not_show_in_representations",
    ),
    "H3": ("tests/test_server.py::test_bad_settings_end_the_start_with_one_line",),
}
