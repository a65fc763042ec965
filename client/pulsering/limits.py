"""Every bound of the protocol, the node and the client, in one place, each with why that number.

Nothing here is tuned elsewhere: the codec checks these before it allocates, the node's ``limits:`` section
starts from them, the client's options default to them. ``tests/unit/test_limits.py`` holds how they relate.
Names end in their unit; a name without one is a count.
"""

from typing import Final

# --- Frames -----------------------------------------------------------------------------------------------

FRAME_BYTES_MAX: Final = 1 << 20
"""A header and its body. Room for KEYS_PER_FRAME_MAX keys less the header, small enough to hold whole."""

CONTROL_BODY_BYTES_MAX: Final = 4096
"""A request that is decoded into Python objects. 4 KiB of empty maps become 0.3 MB; 1 MiB, 74 MB."""

HELLO_FRAME_BYTES_MAX: Final = 4096
"""Any frame before HELLO: nothing that a stranger sends may cost more than a page."""

KEYS_PER_FRAME_MAX: Final = 131_000
"""What still fits into FRAME_BYTES_MAX with header, epoch and ext header around it."""

KEYS_PER_FRAME: Final = 8192
"""What the client packs and a node accepts by default: 64 KiB a frame, about 0.4 ms of one core."""

NAME_BYTES_MAX: Final = 63
"""Cluster, node and zone names: a DNS label."""

ERROR_MESSAGE_BYTES_MAX: Final = 512
"""The text in an ERROR or GOAWAY frame: one sentence for a person."""

NODES_MAX: Final = 4096
"""Nodes in a topology: its reply stays well under FRAME_BYTES_MAX, owner indices fit 16 bits."""

REPLICAS_MAX: Final = 5
"""Owners of a slot. More would multiply every write and buy no promise that three do not."""

WEIGHT_MAX: Final = 1000
"""Weight of a node: a cost of 46 bits shifted by 16 and divided by it stays exact in 64 bits."""

# --- Time -------------------------------------------------------------------------------------------------

TTL_MS_MIN: Final = 1_000
"""Below it, one late network packet is a false offline."""

TTL_MS_MAX: Final = 3_600_000
"""Above it, presence is no longer presence, and warming up would take longer than a shift."""

TTL_MS: Final = 20_000
"""Two missed heartbeats of 10 s."""

TICKS_PER_TTL_MIN: Final = 20
"""A tick is never coarser than ttl/20."""

TICKS_PER_TTL: Final = 80
"""250 ms at a ttl of 20 s."""

TICKS_PER_TTL_MAX: Final = 80
"""The wheel has 255 spokes: one ttl live, one for the sweep, one for a jump of the clock."""

HELLO_TIMEOUT_MS: Final = 2_000
"""From accept to a complete HELLO; a stranger may not hold a connection longer."""

FRAME_TIMEOUT_MS: Final = 5_000
"""From a frame's first byte to its last: idle timers alone do not stop drip-feeding."""

IDLE_TIMEOUT_MS: Final = 60_000
"""A connection without a frame. Twelve times the client's ping, three ttls: nobody alive is that silent."""

DRAIN_MS: Final = 10_000
"""From SIGTERM to the end: clients leave within half of it, the process within twelve seconds."""

# --- Node -------------------------------------------------------------------------------------------------

CONNECTIONS: Final = 10_000
"""Connections a node accepts; checked against RLIMIT_NOFILE at start."""

FILES_RESERVED: Final = 64
"""File descriptors kept aside for listeners, logs, admin and the refusal of a connection too many."""

IN_FLIGHT_MAX: Final = 1024
"""Requests a client may have unanswered on one connection."""

OUTPUT_PAUSE_BYTES: Final = 256 << 10
"""Replies that a peer has not read before we stop reading its requests."""

OUTPUT_CLOSE_BYTES: Final = 4 << 20
"""Replies that a peer has not read before we close it."""

BUFFERS_BYTES: Final = 512 << 20
"""Requests unanswered and replies unread of all connections together; ten thousand peers that each stay below
their own bounds would else be 12 GB. Who holds most is closed first."""

OUTPUT_RESUME_BYTES: Final = 64 << 10
"""Unread replies at which a paused peer's requests are read again: far enough below not to flap."""

OUTPUT_TIMEOUT_MS: Final = 10_000
"""A peer whose output stays paused is closed: in half a ttl, one that is alive has read 256 KiB."""

RECEIVE_BYTES: Final = 256 << 10
"""What one read of a socket takes at most: four full frames. All connections share the one buffer."""

SEND_BUFFER_BYTES: Final = 256 << 10
"""SO_SNDBUF of accepted sockets; the kernel would otherwise hold 4 MB for a peer that never reads."""

WORK_PER_TURN: Final = 32_768
"""What one connection may have done before the others have their turn, counted in keys: all that one read of
256 KiB can hold, 1 to 2 ms of one core. One frame is always done whole."""

WORK_PER_FRAME: Final = 512
"""What a frame that Python answers counts for: some 20 us. So 64 pings are a turn."""

WORK_PER_WATCH: Final = 4
"""What a user counts for whom somebody begins or ceases to watch: half a microsecond."""

GET_AGE_MS_MAX: Final = 50
"""An overloaded node refuses a get that waited longer. Served in order, all would wait ever longer and none
be in time; with a fifth of CALL_TIMEOUT_MS gone, there is still time for the answer, or for another owner."""

WRITE_AGE_MS_MAX: Final = 125
"""The same for heartbeats and leaves: half of CALL_TIMEOUT_MS, so that gets give way long before they do."""

BUSY_AFTER_MS: Final = 250
"""When to ask an overloaded node again: by then it has refused whatever it had not done."""

LOAD_PROBE_MS: Final = 20
"""How often a node looks whether it had to wait for work; if not once since the last time, it is pressed."""

OVERLOAD_MS: Final = 100
"""A node that waits for work again counts as pressed for this much longer: a breath changes nothing."""

CLOSE_TIMEOUT_MS: Final = 1_000
"""For a peer to take our last words; one that does not read would else hold its connection for ever."""

LAST_SEEN_BYTES: Final = 256 << 20
"""What a node remembers of users who went offline, where it is told to: 29 million of them."""

LAST_SEEN_MS_MIN: Final = 60_000
"""For less, the ttl is there."""

LAST_SEEN_MS_MAX: Final = 90 * 86_400_000
"""What 14 bits count in steps of 512 s is 97 days; and whoever was away for a quarter is away."""

STALLS_PER_TTL: Final = 4
"""A node that stood still for ttl/4 has to warm up again. A user heard every ttl/2 still has ttl/2 left when
the stall begins, so half of that is safe, with as much again for frames that were late already."""

CLOCK_DOUBT_MS: Final = 2_000
"""A clock that stands still this long, or a wall clock that leaps ahead of it this far, makes a node suspect:
far beyond what a time daemon corrects in one tick, far below the ttl/4 that a user may lose."""

LOG_LINES_PER_S: Final = 10
"""Of one event; what a thousand peers do wrong at once is one line a hundred times, and a count."""

RESTART_MS_MIN: Final = 100
"""Before a core that ended is started again; doubled each time up to RESTART_MS_MAX."""

RESTART_MS_MAX: Final = 10_000
"""Ten tries a minute for a core that cannot start; one that served longer than this starts small again."""

STOP_GRACE_MS: Final = 1_000
"""Beyond DRAIN_MS for a process to end, and once more after it was told to hurry; then it is killed."""

ADMIN_CONNECTIONS: Final = 16
"""At the admin port, at once: some scrapers, probes and people, one request each. Part of FILES_RESERVED."""

ADMIN_REQUEST_MS: Final = 10_000
"""From accept to the last byte of the answer; Prometheus waits as long, and nobody drips in headers."""

ADMIN_LINE_BYTES: Final = 4096
"""A request line or a header field of it."""

ADMIN_BODY_BYTES: Final = 4096
"""The body of a request; none of them needs one."""

ADMIN_PEER_MS: Final = 1_000
"""For another node to answer a console, connect and all: a hanging one must not make the page late."""

ADMIN_LOOK_MS: Final = 5_000
"""After this nobody more is asked in one look, so that it ends well within ADMIN_REQUEST_MS."""

ADMIN_LOOK_REST_MS: Final = 1_000
"""Between two looks, so that many consoles cost what one does."""

ADMIN_ASKED_AT_ONCE: Final = 8
"""Nodes that a console asks at the same time. Part of FILES_RESERVED."""

ADMIN_ASKED_PER_S: Final = 50
"""Nodes that a console asks a second, at most: at a millisecond each, a twentieth of the loop that serves."""

ADMIN_SUMMARY_BYTES: Final = 64 << 10
"""What a console takes from another node; five minutes of history are some 5 KB."""

# --- Watch ------------------------------------------------------------------------------------------------

WATCHED_USERS: Final = 1_000_000
"""Watched users of a node, one counted again for each connection that watches it: some 60 MB of memory."""

WATCHED_USERS_PER_CONNECTION: Final = 131_072
"""Of those, on one connection: a page of friends has hundreds, a service a hundred thousand."""

WATCHED_USERS_PER_TURN: Final = 4096
"""Of those whose time may have run out, looked at at once: a third of a millisecond."""

WATCH_PUSHES_PER_TURN: Final = 64
"""Connections that are told of changes before others have their turn: one to two milliseconds."""

WATCH_PULSE_MS_MIN: Final = 250
"""Four small frames a second to each connection that watches, at most."""

WATCH_PULSE_MS_MAX: Final = 1_000
"""Who watches knows after three of them that it hears nothing more: well before a ttl has passed."""

# --- Tokens and certificates -------------------------------------------------------------------------------

TOKEN_FILE_BYTES: Final = 16 << 10
"""A file of tokens: some hundred, one a line. Each HELLO is compared with all of them."""

TOKEN_LETTERS_MIN: Final = 16
"""Shorter ones can be guessed: a node answers some thousand guesses a second."""

TOKEN_LETTERS_MAX: Final = 256
"""Room for whatever makes tokens elsewhere; a HELLO with one stays far below HELLO_FRAME_BYTES_MAX."""

PEM_BYTES_MAX: Final = 1 << 20
"""A file of certificates: a bundle of all public authorities has a quarter of it."""

CERTIFICATE_DAYS_MIN: Final = 30
"""A certificate that ends sooner is a warning: time enough for whoever renews it by hand."""
CERTIFICATE_DAYS_LATE: Final = 14
"""One that ends sooner is an alert: what renews certificates does so with a third of their time left."""

# --- Client -----------------------------------------------------------------------------------------------

CALL_TIMEOUT_MS: Final = 250
"""A whole call, retries included: far inside a heartbeat interval, and a page can wait for it."""

CONNECT_TIMEOUT_MS: Final = 1_000
"""TCP, TLS and HELLO together."""

ATTEMPTS: Final = 3
"""The first and two more, each on another owner."""

RETRY_BUDGET_RATIO: Final = 0.1
"""Retries a client may add to its calls: a tenth, so that a failing cluster is not asked twice as much."""

RETRY_BUDGET_MAX: Final = 100.0
"""Tokens that a quiet client saves up for a bad moment."""

RECONNECT_MS_MIN: Final = 50
"""First back-off; full jitter up to RECONNECT_MS_MAX or a quarter of the ttl, for ever."""

RECONNECT_MS_MAX: Final = 5_000
"""A node that comes back is found within a quarter of a ttl."""

PING_MS: Final = 5_000
"""Two misses are half a ttl."""

CIRCUIT_FAILURES: Final = 5
"""Consecutive failures of a node before its owners' other halves are asked first."""

CIRCUIT_PROBE_MS_MIN: Final = 100
"""First probe of an open circuit; doubled with jitter up to CIRCUIT_PROBE_MS_MAX."""

CIRCUIT_PROBE_MS_MAX: Final = 5_000
"""Like RECONNECT_MS_MAX."""

SWEEP_MS: Final = 10
"""How often a connection looks for overdue requests: one timer a connection instead of one a call."""

TOPOLOGY_REFRESH_MS: Final = 1_000
"""At most one refresh a second and client, jittered by a fifth."""

WATCH_BUFFER: Final = WATCHED_USERS_PER_CONNECTION
"""Users with changes that a watch has not read, then WatchOverflow: one of as many users as a connection may
watch only ever gets their latest states, late; a larger one is told that it does not keep up."""

PENDING_KEYS_MAX: Final = 4_000_000
"""Keys a client holds for frames unsent or unanswered: 32 MB, then Overloaded."""
