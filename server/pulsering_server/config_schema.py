"""What ``cluster.yaml`` may say: one model a section, one field a key, its bounds and its default.

The models are frozen and refuse keys they do not know; bounds that the protocol shares come from
``pulsering.limits``. A model checks one value at a time; what holds between values is in ``config_checks``.
Field names end in their unit where the file's own key leaves the unit to the value (``ttl: 20s`` is
``ttl_ms``).

A field says everything about its key, once: what it is for (up to the first full stop also in errors), and
when a change of it counts (``RELOAD``, ``RESTART`` or ``RESTART_ALL``, and whether it moves users). Editors,
``config init``, ``show``, ``diff`` and docs/configuration.md are made from that.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.config import JsonDict

from pulsering.limits import (
    BUFFERS_BYTES,
    CONNECTIONS,
    FRAME_BYTES_MAX,
    HELLO_FRAME_BYTES_MAX,
    IN_FLIGHT_MAX,
    KEYS_PER_FRAME,
    KEYS_PER_FRAME_MAX,
    LAST_SEEN_BYTES,
    LAST_SEEN_MS_MAX,
    LAST_SEEN_MS_MIN,
    NAME_BYTES_MAX,
    NODES_MAX,
    OUTPUT_CLOSE_BYTES,
    OUTPUT_PAUSE_BYTES,
    REPLICAS_MAX,
    TICKS_PER_TTL,
    TICKS_PER_TTL_MAX,
    TICKS_PER_TTL_MIN,
    TTL_MS,
    TTL_MS_MAX,
    TTL_MS_MIN,
    WATCHED_USERS,
    WEIGHT_MAX,
)
from pulsering_server.config_values import (
    ADDRESS_SCHEMA,
    ADMIN_SCHEMA,
    SEED_SCHEMA,
    TLS_VERSION_SCHEMA,
    Address,
    Quantity,
    before,
    parse_address,
    parse_admin,
    parse_seed,
    parse_tls_version,
)
from pulsering_server.etcd_url import ETCD_SCHEMA, checked_etcd_url

MEMORY_BYTES: Final = 1 << 30
"""The table of a node by default: about 100 million users, and no surprise on a small machine."""
MEMORY_BYTES_MIN: Final = 1 << 20
MEMORY_BYTES_MAX: Final = 1 << 44
FRAME_BYTES_MIN: Final = HELLO_FRAME_BYTES_MAX
USERS_MAX: Final = 1 << 40
WATCHED_USERS_MAX: Final = 1 << 30
BUFFERS_BYTES_MIN: Final = 1 << 20
BUFFERS_BYTES_MAX: Final = 1 << 40
LAST_SEEN_BYTES_MIN: Final = 8 << 20
"""``_last_seen_reference.MEMORY_MIN``."""
LAST_SEEN_BYTES_MAX: Final = 1 << 40
CORES_MAX: Final = 256
"""More than any machine that is one failure domain should hold of a cluster."""

RELOAD: Final[JsonDict] = {"x-change": "reload"}
"""A running node follows it at once."""
RELOAD_MOVES: Final[JsonDict] = {"x-change": "reload", "x-moves": True}
RESTART: Final[JsonDict] = {"x-change": "restart"}
"""A node takes it up at its next start; the other nodes do not mind."""
RESTART_MOVES: Final[JsonDict] = {"x-change": "restart", "x-moves": True}
RESTART_ALL: Final[JsonDict] = {"x-change": "restart of every node"}
"""Running nodes refuse a file in which it has changed."""
RESTART_ALL_MOVES: Final[JsonDict] = {"x-change": "restart of every node", "x-moves": True}


def _absent_is_empty(value: object) -> object:
    """Let a section whose keys are all commented out be what it looks like."""
    return {} if value is None else value


SECTION: Final = BeforeValidator(_absent_is_empty)
"""Marks a mapping of keys of its own, each of which a node's environment may override."""

ClusterName = Annotated[str, StringConstraints(pattern=rf"^[a-z0-9-]{{1,{NAME_BYTES_MAX}}}$")]
NodeName = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._-]{{1,{NAME_BYTES_MAX}}}$")]
Zone = Annotated[str, StringConstraints(pattern=rf"^[A-Za-z0-9._-]{{0,{NAME_BYTES_MAX}}}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


class LimitsConfig(_Section):
    """``limits``: what one node may use and accept, whatever its peers do."""

    memory_bytes: Annotated[int, Quantity("size", MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)] = Field(
        MEMORY_BYTES,
        alias="memory",
        description="The table of users, 6 to 9 bytes each. When it is full, new users are refused, and"
        " those known stay.",
        json_schema_extra=RESTART,
    )
    users: Annotated[int, Field(ge=1, le=USERS_MAX)] | None = Field(
        None,
        description="Users a node holds at most. Without it, as many as its memory holds.",
        examples=[100_000_000],
        json_schema_extra=RESTART,
    )
    connections: int = Field(
        CONNECTIONS,
        ge=1,
        le=1_000_000,
        description="Open connections. Each takes a file descriptor (ulimit -n) of the node's process.",
        json_schema_extra=RESTART,
    )
    connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Of these, to each core, from one address (IPv6: one network of 64 bits). Without it,"
        " all. Give twice what the largest client machine needs.",
        examples=[100],
        json_schema_extra=RESTART,
    )
    frame_bytes: Annotated[int, Quantity("size", FRAME_BYTES_MIN, FRAME_BYTES_MAX)] = Field(
        FRAME_BYTES_MAX, alias="frame", description="One request or reply.", json_schema_extra=RESTART
    )
    keys_per_frame: int = Field(
        KEYS_PER_FRAME,
        ge=1,
        le=KEYS_PER_FRAME_MAX,
        description="Users in one request. Clients are told, and cut their calls accordingly.",
        json_schema_extra=RESTART,
    )
    in_flight: int = Field(
        IN_FLIGHT_MAX,
        ge=1,
        le=IN_FLIGHT_MAX,
        description="Unanswered requests a connection.",
        json_schema_extra=RESTART,
    )
    watched_users: int = Field(
        WATCHED_USERS,
        ge=1,
        le=WATCHED_USERS_MAX,
        description="Users watched, each counted once for each connection that watches it; 60 bytes each,"
        " beside the memory of the table. A connection that wants more is refused.",
        json_schema_extra=RESTART,
    )
    output_pause_bytes: Annotated[int, Quantity("size", 1 << 12, 1 << 30)] = Field(
        OUTPUT_PAUSE_BYTES,
        alias="output_pause",
        description="Replies a peer leaves unread before its requests wait.",
        json_schema_extra=RESTART,
    )
    output_close_bytes: Annotated[int, Quantity("size", 1 << 12, 1 << 30)] = Field(
        OUTPUT_CLOSE_BYTES,
        alias="output_close",
        description="Replies a peer leaves unread before it is disconnected. At least output_pause, and a"
        " frame.",
        json_schema_extra=RESTART,
    )
    buffers_bytes: Annotated[int, Quantity("size", BUFFERS_BYTES_MIN, BUFFERS_BYTES_MAX)] = Field(
        BUFFERS_BYTES,
        alias="buffers",
        description="Requests and replies of all peers together. Beyond it, whoever holds most is"
        " disconnected.",
        json_schema_extra=RESTART,
    )
    last_seen_bytes: Annotated[int, Quantity("size", LAST_SEEN_BYTES_MIN, LAST_SEEN_BYTES_MAX)] = Field(
        LAST_SEEN_BYTES,
        alias="last_seen",
        description="With last_seen: when users were last seen, 9 to 14 bytes each, beside memory. When it is"
        " full, the oldest are forgotten.",
        json_schema_extra=RESTART,
    )


FileName = Annotated[str, StringConstraints(min_length=1)]


def _file(description: str, example: str, change: JsonDict = RELOAD) -> Any:
    """The name of a file that need not be there."""
    return Field(None, description=description, examples=[example], json_schema_extra=change)


def _switch(description: str) -> Any:
    """Something that is off unless it is asked for, when a node starts."""
    return Field(False, description=description, json_schema_extra=RESTART)


class TlsConfig(_Section):
    """``tls``: what nodes show of themselves, and want to be shown."""

    certificate: FileName | None = _file(
        "PEM file of the node's certificate, then those between it and its authority. With it, nodes speak"
        " TLS and nothing else. Relative to this file, as all file names.",
        "node.pem",
    )
    key: FileName | None = _file(
        "PEM file of the certificate's key. Without it, that is in the certificate's file.", "node.key"
    )
    client_ca: FileName | None = _file(
        "PEM file of the authorities that clients' certificates must be of: mutual TLS. Without it, clients"
        " show none.",
        "clients.pem",
    )
    minimum_version: Annotated[str, BeforeValidator(before(parse_tls_version)), TLS_VERSION_SCHEMA] = Field(
        "1.2", description="Oldest version of TLS that is spoken.", json_schema_extra=RELOAD
    )
    admin: bool = _switch("Admin ports speak TLS as well, with the same files.")


class AuthConfig(_Section):
    """``auth``: who may ask nodes, and tell them, who is online."""

    token_file: FileName | None = _file(
        "File of tokens, a line a role (read, write or admin) and a token. Without it, nobody is asked for"
        " one.",
        "tokens",
    )
    insecure_no_token: bool = _switch(
        "Listen beyond loopback although anybody who reaches the port may do anything."
    )


class AdminConfig(_Section):
    """``admin``: who may read and steer nodes over HTTP. Where they listen for it, ``nodes`` say."""

    token_file: FileName | None = _file(
        "File of tokens, one a line, any of which is good. What is in it is followed at once.",
        "admin.token",
        change=RESTART,
    )
    insecure_no_token: bool = _switch("Listen beyond loopback without a token.")


class NodeConfig(_Section):
    """One entry of ``nodes``."""

    name: NodeName = Field(
        description="What 'pulsering serve --node' picks. Letters, digits, '.', '_' and '-'. It places"
        " users: a renamed node is a new node.",
        json_schema_extra=RELOAD_MOVES,
    )
    address: Annotated[Address, BeforeValidator(before(parse_address)), ADDRESS_SCHEMA] = Field(
        description='The host:port that clients dial and the node listens on. IPv6 as "[::1]:7400", in'
        " quotes. Two replicas are never on one host.",
        json_schema_extra=RESTART,
    )
    cores: int = Field(
        1,
        ge=1,
        le=CORES_MAX,
        description="Processes, each a node on a port of its own. With 16, node a is a-0 to a-15 at 16"
        " ports from the address on; 'serve --node a' runs them all.",
        json_schema_extra=RESTART_MOVES,
    )
    weight: int = Field(
        1,
        ge=1,
        le=WEIGHT_MAX,
        description="Share of the users of each core. Relative to the others.",
        json_schema_extra=RELOAD_MOVES,
    )
    zone: Zone = Field(
        "",
        description="Rack or availability zone. Replicas go to different zones where there are enough; a"
        " node without one is a zone of its own.",
        examples=["rack-1"],
        json_schema_extra=RELOAD_MOVES,
    )
    admin: Annotated[Address | None, BeforeValidator(before(parse_admin)), ADMIN_SCHEMA] = Field(
        None,
        description="Where metrics, health and status are served over HTTP. A port is one on loopback,"
        " host:port any; each core has its own, from this one on.",
        examples=[8400, "10.0.0.1:8400"],
        json_schema_extra=RESTART,
    )


class ClusterFile(_Section):
    """A Pulsering cluster: the file that every node and every client reads, ``cluster.yaml``."""

    version: Literal[1] = Field(description="Version of this file's format. Always 1.")
    cluster: ClusterName = Field(
        description="Name of the cluster. Of a-z, 0-9 and '-'. A node refuses clients that were looking for"
        " another one.",
        json_schema_extra=RESTART_ALL,
    )
    epoch: int = Field(
        ge=1,
        le=(1 << 32) - 1,
        description="Number of this version of the nodes. Raise it by one with every change of them, then"
        " copy the file to every node.",
        json_schema_extra=RELOAD,
    )
    ttl_ms: Annotated[int, Quantity("duration", TTL_MS_MIN, TTL_MS_MAX)] = Field(
        TTL_MS,
        alias="ttl",
        description="A user is online this long after the last heartbeat. Two heartbeat intervals or more,"
        " so that one lost heartbeat is no false 'offline'.",
        json_schema_extra=RESTART_ALL,
    )
    heartbeat_ms: Annotated[int, Quantity("duration", 1, TTL_MS_MAX)] | None = Field(
        None,
        alias="heartbeat",
        description="How often devices send a heartbeat. Nodes do not use it: it is held against ttl, so"
        " that a change of either that would make users flicker is refused.",
        examples=["10s"],
        json_schema_extra=RELOAD,
    )
    ticks_per_ttl: int = Field(
        TICKS_PER_TTL,
        alias="ticks",
        ge=TICKS_PER_TTL_MIN,
        le=TICKS_PER_TTL_MAX,
        description="Steps that a ttl is cut into. At a ttl of 20s and 80 ticks, users expire 250ms late at"
        " most.",
        json_schema_extra=RESTART_ALL,
    )
    last_seen_ms: Annotated[int, Quantity("duration", LAST_SEEN_MS_MIN, LAST_SEEN_MS_MAX)] | None = Field(
        None,
        alias="last_seen",
        description="For how long nodes remember when users who went offline were last seen. Without it, not"
        " at all.",
        examples=["7d"],
        json_schema_extra=RESTART,
    )
    replicas: int = Field(
        2,
        ge=1,
        le=REPLICAS_MAX,
        description="Nodes that hold each user, on hosts of their own. With 2, any one node may die and"
        " nobody reads offline for it.",
        json_schema_extra=RELOAD_MOVES,
    )
    hash_seed: Annotated[int, BeforeValidator(before(parse_seed)), SEED_SCHEMA] = Field(
        0,
        description="Places users on nodes. In production choose a random one and keep it to yourself, so"
        " that nobody can choose ids that all land on one node. A change moves every user.",
        json_schema_extra=RESTART_ALL_MOVES,
    )
    published: Annotated[str, BeforeValidator(before(checked_etcd_url)), ETCD_SCHEMA] | None = Field(
        None,
        alias="topology",
        description="Where 'pulsering apply' publishes epoch, replicas and nodes, for clusters that outgrow"
        " copying files: a key of etcd. Nodes follow it, and need this file for the start and for the rest.",
        examples=["etcd://10.0.0.1:2379/pulsering/prod"],
        json_schema_extra=RESTART,
    )
    limits: Annotated[LimitsConfig, SECTION] = Field(
        default_factory=LimitsConfig.model_construct,
        description="What one node may use and accept. Its cores share memory, users, connections and"
        " buffers.",
    )
    tls: Annotated[TlsConfig, SECTION] = Field(
        default_factory=TlsConfig.model_construct,
        description="Encryption of what nodes and clients say, and how each knows the other.",
    )
    auth: Annotated[AuthConfig, SECTION] = Field(
        default_factory=AuthConfig.model_construct,
        description="Who may ask nodes, and tell them, who is online.",
    )
    admin: Annotated[AdminConfig, SECTION] = Field(
        default_factory=AdminConfig.model_construct,
        description="Who may read and steer nodes over HTTP.",
    )
    nodes: tuple[NodeConfig, ...] = Field(
        min_length=1, max_length=NODES_MAX, description="Who is in it. A list of names and addresses."
    )
