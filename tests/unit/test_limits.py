"""The limits hold together: each relation here is a promise that one of them alone cannot keep."""

from pulsering import limits, messages, wire


def test_a_frame_of_the_most_keys_fits_its_bound() -> None:
    body = messages.encode_keys_request(0xFFFFFFFF, 0xFFFFFFFF, bytes(8 * limits.KEYS_PER_FRAME_MAX))
    assert wire.HEADER_BYTES + len(body) <= limits.FRAME_BYTES_MAX


def test_a_reply_with_ages_for_the_most_keys_fits_its_bound() -> None:
    keys = limits.KEYS_PER_FRAME_MAX
    body = messages.encode_get_reply(0xFFFFFFFF, 0xFFFFFFFF, keys, bytes((keys + 3) // 4), bytes(keys))
    assert wire.HEADER_BYTES + len(body) <= limits.FRAME_BYTES_MAX


def test_the_default_batch_is_within_the_hard_one() -> None:
    assert limits.KEYS_PER_FRAME <= limits.KEYS_PER_FRAME_MAX


def test_strangers_get_less_than_friends() -> None:
    assert limits.HELLO_FRAME_BYTES_MAX <= limits.CONTROL_BODY_BYTES_MAX + wire.HEADER_BYTES
    assert limits.CONTROL_BODY_BYTES_MAX < limits.FRAME_BYTES_MAX


def test_output_pauses_long_before_it_closes() -> None:
    assert limits.OUTPUT_PAUSE_BYTES * 4 <= limits.OUTPUT_CLOSE_BYTES
    assert limits.OUTPUT_CLOSE_BYTES > limits.FRAME_BYTES_MAX


def test_a_client_hears_of_trouble_before_its_users_expire() -> None:
    assert limits.PING_MS * 2 <= limits.TTL_MS // 2
    assert limits.RECONNECT_MS_MAX <= limits.TTL_MS // 4
    assert limits.CALL_TIMEOUT_MS * limits.ATTEMPTS < limits.TTL_MS // 4
    assert limits.PING_MS * 3 < limits.IDLE_TIMEOUT_MS


def test_the_wheel_has_a_spoke_for_every_tick_it_must_tell_apart() -> None:
    live = limits.TICKS_PER_TTL_MAX + 1
    jump = limits.TICKS_PER_TTL_MAX + 1
    sweep = limits.TICKS_PER_TTL_MAX
    assert live + jump + sweep <= 255


def test_a_node_can_be_told_apart_by_16_bits_and_one_value_is_left_for_none() -> None:
    assert limits.NODES_MAX < 0xFFFF


def test_the_ranges_hold_their_defaults() -> None:
    assert limits.TTL_MS_MIN <= limits.TTL_MS <= limits.TTL_MS_MAX
    assert limits.TICKS_PER_TTL_MIN <= limits.TICKS_PER_TTL <= limits.TICKS_PER_TTL_MAX
    assert limits.RECONNECT_MS_MIN < limits.RECONNECT_MS_MAX
    assert limits.CIRCUIT_PROBE_MS_MIN < limits.CIRCUIT_PROBE_MS_MAX


def test_a_stall_that_is_forgiven_expires_nobody_who_beats() -> None:
    """A user heard every ttl/2 must outlive a pause of the node that does not make it cold."""
    assert limits.TTL_MS // 2 + limits.TTL_MS // limits.STALLS_PER_TTL < limits.TTL_MS


def test_a_peer_that_does_not_read_is_gone_before_an_idle_one() -> None:
    assert limits.OUTPUT_RESUME_BYTES < limits.OUTPUT_PAUSE_BYTES
    assert limits.CLOSE_TIMEOUT_MS < limits.OUTPUT_TIMEOUT_MS < limits.IDLE_TIMEOUT_MS


def test_an_overloaded_node_answers_in_time_or_refuses_in_time() -> None:
    """Gets give way before heartbeats, and whoever is refused can still ask another owner."""
    assert limits.GET_AGE_MS_MAX * 2 < limits.WRITE_AGE_MS_MAX
    assert limits.WRITE_AGE_MS_MAX <= limits.CALL_TIMEOUT_MS // 2
    assert limits.LOAD_PROBE_MS * 2 <= limits.GET_AGE_MS_MAX
    assert limits.LOAD_PROBE_MS < limits.OVERLOAD_MS < 2_000


def test_a_turn_holds_a_full_frame_and_many_small_ones() -> None:
    assert limits.KEYS_PER_FRAME * limits.WORK_PER_WATCH <= limits.WORK_PER_TURN
    assert limits.WORK_PER_FRAME * 16 <= limits.WORK_PER_TURN


def test_all_buffers_together_hold_many_of_the_largest() -> None:
    largest = limits.OUTPUT_CLOSE_BYTES + limits.FRAME_BYTES_MAX
    assert largest * 16 <= limits.BUFFERS_BYTES


def test_a_push_to_one_connection_fits_a_frame() -> None:
    keys = limits.KEYS_PER_FRAME
    body = messages.encode_watch_push(
        0xFFFFFFFF, 0xFFFFFFFF, bytes(8 * keys), bytes((keys + 3) // 4), bytes(keys)
    )
    assert wire.HEADER_BYTES + len(body) <= limits.FRAME_BYTES_MAX
    assert wire.HEADER_BYTES + len(body) < limits.OUTPUT_PAUSE_BYTES


def test_a_silent_stream_is_noticed_before_a_ttl_has_passed() -> None:
    assert limits.WATCH_PULSE_MS_MIN <= limits.WATCH_PULSE_MS_MAX
    assert 3 * messages.watch_pulse_ms(limits.TTL_MS_MIN) < limits.TTL_MS_MIN
    assert limits.WATCHED_USERS_PER_CONNECTION < limits.WATCHED_USERS
