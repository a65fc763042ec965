"""docs/protocol.md cannot drift: its hex examples and tables are regenerated from the code and compared.

``python tests/unit/test_protocol_doc.py`` writes the regenerated document back.
"""

import re
import struct
import sys
import uuid
from pathlib import Path

from pulsering import limits, messages, wire
from pulsering._last_seen import SEEN_NONE, WANT_LAST_SEEN, GetSeenReply, encode_get_seen_reply
from pulsering.ids import UserId, key_of, keys_of, slot_of
from pulsering.status import Cause

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
IDS: list[UserId] = [1, 42, "alice"]
KEYS = keys_of(IDS, 0)

EXAMPLES = {
    "hello": wire.encode_frame(
        wire.Op.HELLO, 1, 1000, messages.encode_map(messages.Hello(1, 1, "", 0, 0, "example/1"))
    ),
    "heartbeat": wire.encode_frame(wire.Op.HEARTBEAT, 7, 1000, messages.encode_keys_request(1, 0, KEYS)),
    "heartbeat-reply": wire.encode_frame(
        wire.Op.HEARTBEAT,
        7,
        5000,
        messages.encode_write_reply(messages.WriteReply(1, 3, 0, 0, 0)),
        reply=True,
    ),
    "get": wire.encode_frame(wire.Op.GET, 8, 1010, messages.encode_keys_request(1, 0, KEYS)),
    "get-reply": wire.encode_frame(
        wire.Op.GET, 8, 5010, messages.encode_get_reply(1, 0, 3, bytes([0b10_00_01])), reply=True
    ),
}
EXAMPLES |= {
    "get-last-seen": wire.encode_frame(
        wire.Op.GET, 10, 1030, messages.encode_keys_request(1, WANT_LAST_SEEN, KEYS)
    ),
    "get-last-seen-reply": wire.encode_frame(
        wire.Op.GET,
        10,
        5030,
        encode_get_seen_reply(
            GetSeenReply(
                1, 0, 3, bytes([0b10_00_01]), b"", struct.pack("<III", SEEN_NONE, 90, SEEN_NONE), 86_400
            )
        ),
        reply=True,
    ),
    "watch": wire.encode_frame(wire.Op.WATCH, 9, 1020, messages.encode_keys_request(1, messages.WATCH, KEYS)),
    "watch-reply": wire.encode_frame(
        wire.Op.WATCH, 9, 5020, messages.encode_watch_reply(1, 0, 3, bytes([0b01_00_01])), reply=True
    ),
    "watch-push": wire.encode_frame(
        wire.Op.WATCH,
        0,
        5250,
        messages.encode_watch_push(1, 0, KEYS[8:], bytes([0b00_01]), bytes([Cause.HEARTBEAT, Cause.LEFT])),
        reply=True,
    ),
    "watch-pulse": wire.encode_frame(
        wire.Op.WATCH, 0, 6250, messages.encode_watch_push(1, 0, b"", b"", b""), reply=True
    ),
}
TABLE_IDS: list[UserId] = [0, 1, 42, 2**64 - 1, "1", "alice", "œuvre", uuid.UUID(int=1)]


def hex_lines(raw: bytes) -> str:
    """The header's four words on a line, then the body, 16 bytes a line."""
    rows = [raw[:16], *(raw[start : start + 16] for start in range(16, len(raw), 16))]
    return "\n".join(row.hex(" ") for row in rows)


def regenerated(text: str) -> str:
    """The document with every generated part made anew."""

    def example(match: re.Match[str]) -> str:
        return f"```hex {match[1]}\n{hex_lines(EXAMPLES[match[1]])}\n```"

    def shown(user_id: UserId) -> str:
        return f"UUID {user_id}" if isinstance(user_id, uuid.UUID) else repr(user_id).replace("'", '"')

    rows = [
        f"| `{shown(user_id)}` | `{key_of(user_id, 0):016x}` | {slot_of(key_of(user_id, 0))} |"
        for user_id in TABLE_IDS
    ]
    text = re.sub(r"```hex ([a-z-]+)\n.*?```", example, text, flags=re.DOTALL)
    return re.sub(
        r"(\|---\|---\|---\|\n)(?:<!-- key table -->|\| `0` \|(?:.*\n)*?(?=\n))",
        lambda m: m[1] + "\n".join(rows) + "\n",
        text,
    )


def test_every_example_is_what_the_code_sends() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert set(re.findall(r"```hex ([a-z-]+)", text)) == set(EXAMPLES)
    assert regenerated(text) == text


def test_the_limits_in_the_document_are_those_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for number in (
        f"{limits.HELLO_FRAME_BYTES_MAX} bytes",
        f"{limits.FRAME_BYTES_MAX >> 20} MiB",
        f"{limits.KEYS_PER_FRAME} by default, never over {limits.KEYS_PER_FRAME_MAX:,}",
        f"{limits.IN_FLIGHT_MAX} by default",
        f"to HELLO | {limits.HELLO_TIMEOUT_MS // 1000} s",
        f"to its last | {limits.FRAME_TIMEOUT_MS // 1000} s",
        f"any frame | {limits.IDLE_TIMEOUT_MS // 1000} s",
        f"{limits.NAME_BYTES_MAX} bytes of UTF-8",
        f"up to {limits.TOKEN_LETTERS_MAX} letters",
        f"may watch {limits.WATCHED_USERS_PER_CONNECTION:,} users",
        f"min({limits.WATCH_PULSE_MS_MAX}, max({limits.WATCH_PULSE_MS_MIN}, ttl / 4))",
        f"pings each {limits.PING_MS // 1000} s",
    ):
        assert number in text, number


def test_every_op_and_error_code_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for code in (*wire.Op, *wire.ErrorCode):
        assert re.search(rf"^\| {code.value} \| {code.name} \|", text, re.MULTILINE), code.name


if __name__ == "__main__":
    DOCUMENT.write_text(regenerated(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
