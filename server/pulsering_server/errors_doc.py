"""``docs/errors.md``, made from ``pulsering.errors`` and the protocol: what can go wrong, and where it shows.

``python -m pulsering_server.errors_doc > docs/errors.md`` writes it; a test holds it to that. Who is at fault
stands in the tree of the module's docstring and nowhere else; everything else is asked of the classes.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from pulsering import errors
from pulsering.errors import PresenceError
from pulsering.wire import ErrorCode
from pulsering_server.cli.failures import exit_code_of

__all__ = ["Told", "all_errors", "reference"]

_INTRODUCTION: Final = """\
# Errors

Everything that the client raises on its own, as a tree by who is at fault. What to do about each is in
[client.md](client.md#errors-and-what-to-do). Generated from the code:
`python -m pulsering_server.errors_doc > docs/errors.md`.

```text
{tree}
```

Every error has `.node` (name or address of the node, or None), `.op` (the operation, or None) and
`.retryable`. In brackets stands the builtin that it also is, so that `except TimeoutError` and `except
ConnectionError` do what one expects. Every operation may be repeated safely; the client has done so already,
on other owners, until the deadline. What is no id at all is a `TypeError` or `ValueError`, before anything is
sent.

## One by one

*Repeat* says whether the same call may succeed later. *Exit* is the [exit code](cli.md#exit-codes) with which
`pulsering` ends on it; messages go to stderr, one line, without a traceback.

| error | says | repeat | also has | exit |
|---|---|---|---|---:|
"""

_CODES: Final = """
## On the wire

What a node answers in an ERROR frame ([protocol.md](protocol.md#error-and-goaway)), counted by
`pulsering_refusals_total{code="…"}` ([metrics.md](metrics.md)). Codes below 16 end the connection.

| code | name | `code` label | connection |
|---:|---|---|---|
"""

_TREE_LINE: Final = re.compile(r"^[\s│├└─]*(\w+)(?: \((\w+)\))? *(.*)$")


class Told(NamedTuple):
    """One error: its class, who is at fault, and what it carries besides what all do."""

    kind: type[PresenceError]
    fault: str
    facts: tuple[str, ...]


def all_errors() -> Iterator[Told]:
    """Every error but the base, in the order of the tree."""
    for line in _tree().splitlines()[1:]:
        match = _TREE_LINE.match(line)
        assert match is not None
        kind = getattr(errors, match[1])
        parameters = inspect.signature(kind).parameters.values()
        facts = (each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
        yield Told(kind, match[3], tuple(name for name in facts if name not in ("node", "op")))


def reference() -> str:
    """The document."""
    rows = "".join(map(_row, all_errors()))
    codes = "".join(
        f"| {int(code)} | {code.name} | `{code.name.lower()}` | {'ends' if code < 16 else 'goes on'} |\n"
        for code in ErrorCode
    )
    return _INTRODUCTION.format(tree=_tree()) + rows + _CODES + codes


def _tree() -> str:
    """The tree of the docstring."""
    _, _, behind = inspect.cleandoc(errors.__doc__ or "").partition("::\n\n")
    return inspect.cleandoc(behind.partition("\n\n")[0]).replace("``", "")


def _row(told: Told) -> str:
    says = re.sub(r"``([^`]+)``", r"`\1`", " ".join(inspect.getdoc(told.kind).split()))  # type: ignore[union-attr]
    facts = ", ".join(f"`.{name}`" for name in told.facts)
    code = exit_code_of(told.kind.__new__(told.kind))
    return (
        f"| `{told.kind.__name__}` | {says} | {'yes' if told.kind.retryable else 'no'} | {facts} | {code} |\n"
    )


if __name__ == "__main__":
    print(reference(), end="")
