"""What this server takes and gives, as an OpenAPI 3.1 document, made of the numbers that ``contract`` checks.

Invariant: it is true. A test sends what it allows and what it forbids, and holds each answer against it.
"""

from typing import Any, Final

from examples.api_server.contract import ID_PATTERN, IDS_MAX
from pulsering import Reason, Status

__all__ = ["document_of"]

_ID: Final = {"type": "string", "pattern": f"^{ID_PATTERN}$", "examples": ["ada"]}
_TOKEN: Final = {"type": "string", "pattern": rf"^{ID_PATTERN}\.[0-9a-f]{{32}}$"}
_PROBLEMS: Final = {
    "400": "What was sent is not what is needed; `detail` says what is.",
    "401": "No token, or one that this server did not sign.",
    "413": "The body is too large.",
    "415": "The body is of another kind.",
    "503": "Presence cannot be asked right now. Come back after `Retry-After` seconds.",
}


def document_of() -> dict[str, Any]:
    """The document; plain dictionaries, made anew."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pulsering: example API server",
            "version": "1",
            "description": (
                "Who is there? Devices send a heartbeat, pages ask for many users at once. What the"
                " cluster cannot know is `unknown`, never a guess. Changes are pushed on the WebSocket"
                " `/watch`, which OpenAPI has no words for: docs/example.md."
            ),
        },
        "paths": {
            "/session": {"post": _session()},
            "/heartbeat": {"post": _heartbeat()},
            "/leave": {"post": _leave()},
            "/status": {"get": _status()},
            "/healthz": {"get": _health()},
            "/openapi.json": {"get": _itself()},
        },
        "components": {
            "schemas": {"Problem": _problem(), "UserStatus": _user_status()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _session() -> dict[str, Any]:
    return {
        "operationId": "openSession",
        "summary": "Be somebody. A stub: whoever asks for a name gets it.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _object(name=_ID)}},
        },
        "responses": {
            "201": _answer(
                "A token for this user, and whom it may want to watch.",
                _object(id=_ID, token=_TOKEN, friends={"type": "array", "items": _ID}),
            ),
            **_problems("400", "413", "415"),
        },
    }


def _heartbeat() -> dict[str, Any]:
    return {
        "operationId": "heartbeat",
        "summary": "The user of the token is alive.",
        "security": [{"token": []}],
        "responses": {
            "200": _answer(
                "At least one node has it. Say so again after this many milliseconds.",
                _object(beat_again_ms={"type": "integer", "minimum": 1}),
            ),
            **_problems("401", "503"),
        },
    }


def _leave() -> dict[str, Any]:
    return {
        "operationId": "leave",
        "summary": "The user of the token is gone.",
        "description": "The token is in the header, or in a form: `navigator.sendBeacon` can send no header.",
        "security": [{"token": []}, {}],
        "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": _object(token=_TOKEN)}}},
        "responses": {
            "204": {"description": "Offline in a second, unless another heartbeat comes."},
            **_problems("400", "401", "413", "415", "503"),
        },
    }


def _status() -> dict[str, Any]:
    return {
        "operationId": "getStatus",
        "summary": "Who of these is online?",
        "security": [{"token": []}],
        "parameters": [
            {
                "name": "ids",
                "in": "query",
                "required": True,
                "description": "User ids with commas between them.",
                "style": "form",
                "explode": False,
                "schema": {"type": "array", "items": _ID, "minItems": 1, "maxItems": IDS_MAX},
            }
        ],
        "responses": {
            "200": _answer(
                "One entry for each id, in their order.",
                _object(statuses={"type": "array", "items": {"$ref": "#/components/schemas/UserStatus"}}),
            ),
            **_problems("400", "401", "503"),
        },
    }


def _health() -> dict[str, Any]:
    count = {"type": "integer", "minimum": 0}
    return {
        "operationId": "getHealth",
        "summary": "Does this process work?",
        "responses": {
            "200": _answer(
                "It does; and to how many nodes of the cluster it is connected.",
                _object(status={"const": "ok"}, nodes_connected=count, nodes=count),
            )
        },
    }


def _itself() -> dict[str, Any]:
    return {
        "operationId": "getDocument",
        "summary": "This document.",
        "responses": {"200": _answer("OpenAPI 3.1.", {"type": "object"})},
    }


def _user_status() -> dict[str, Any]:
    statuses = [status.name.lower() for status in Status]
    reasons = [reason.name.lower() for reason in Reason if reason is not Reason.NONE]
    return {
        "type": "object",
        "properties": {
            "id": _ID,
            "status": {"enum": statuses},
            "reason": {"enum": reasons, "description": "Why it is unknown."},
            "last_seen_s": {
                "type": "integer",
                "minimum": 0,
                "description": "Seconds since the last heartbeat of who is offline, where it is remembered.",
            },
        },
        "required": ["id", "status"],
        "additionalProperties": False,
        "if": {"properties": {"status": {"const": "unknown"}}},
        "then": {"required": ["reason"]},
    }


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    return _object(type=text, title=text, status={"type": "integer"}, detail=text)


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _problems(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    problems: dict[str, Any] = {
        status: {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": schema}},
        }
        for status in statuses
    }
    if "503" in problems:
        problems["503"]["headers"] = {
            "Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}
        }
    return problems
