r"""``docs/cli.md``, made from the commands themselves: what is not in the document cannot be typed.

``python -m pulsering_server.cli.reference > docs/cli.md`` writes it; a test holds it to that. Of the verbs
that hang on from elsewhere (the demo, the benchmarks) it has the first sentence; their help says the rest.
"""

import importlib.metadata
import inspect
import math
import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

from rich.text import Text
from typer.models import ArgumentInfo, OptionInfo

from pulsering_server.cli.app import PLUGIN_GROUP, build_app
from pulsering_server.cli.health import CHECKS, Check
from pulsering_server.cli.status import STATES

__all__ = ["Verb", "examples_of", "reference", "verbs"]

_INTRODUCTION: Final = """\
# The command line

One command, `pulsering`, for whoever asks and whoever operates. `pulsering --help` lists the verbs, each
verb's `--help` has examples. Generated from the code: `python -m pulsering_server.cli.reference >
docs/cli.md`.

## Exit codes

| code | means |
|---|---|
| 0 | ok |
| 1 | failed: the cluster was reached, but what was asked for did not come out, or only in part |
| 2 | usage or configuration: the message says what to type or write instead |
| 3 | the cluster cannot be reached |
| 130 | Ctrl-C, except where it is how one ends: `top`, `watch`, `--watch`, `dev` |

`check` has those of Nagios instead: 0 ok, 1 warning, 2 critical (also: no node can be reached), 3 unknown
(usage or configuration). Once given, a number keeps its meaning.

## Which cluster

The most explicit wins: `--url`, `--config`, `$PULSERING_URL`, `$PULSERING_CONFIG`, then `cluster.yaml` in
the current directory. Only a file tells where the nodes' [admin ports](admin.md) are, which `top`,
`conns`, `check` and `support-dump` ask; a node without one has its line all the same, and below the table
stands what to do about it. A port on the loopback of another machine is reached by a tunnel:

```console
ssh -L 8401:127.0.0.1:8400 node-b.example.com
pulsering top --admin b=127.0.0.1:8401
```

Tokens come from `$PULSERING_TOKEN` (data) and `$PULSERING_ADMIN_TOKEN` or the file's `admin.token_file`
(admin ports). Where the file says that nodes speak TLS, commands do; `$PULSERING_CLIENT_CA`,
`$PULSERING_CLIENT_CERTIFICATE` and `$PULSERING_CLIENT_KEY` name PEM files if what the system trusts will
not do.

## How it answers

`-o json` and `-o yaml` print one document, with snake_case names and durations in `_ms`: the stable
contract for scripts. Tables are for people; in a pipe they are plain and uncut. `--watch 2s` asks again
every 2 s until Ctrl-C, also while the cluster cannot be reached; with `-o json` it prints one line a
time, as `watch` does. `NO_COLOR=1` turns colours off.

## Completion

`pulsering --install-completion` sets up completion of verbs, options and their values in bash, zsh, fish
or PowerShell, whichever it is called from; `pulsering --show-completion` prints the script instead.
"""

_STATES_HEAD: Final = "\n| state | means |\n|---|---|\n"
_OTHERS_HEAD: Final = """
## To try it and to measure it

With the extra `bench`; `--help` says the rest.

| | |
|---|---|
"""
_CHECKS_HEAD: Final = "\n| check | warning from | critical from | what |\n|---|---|---|---|\n"
_CHECKS_FOOT: Final = """
Those from `unknown` on are of the admin ports, and skipped where none tells. `--limit ping=50ms:500ms`
changes a limit, `--limit memory=off` turns one off. For Nagios the answer is one line with performance
data. For Prometheus it is the text format: `pulsering_check_grade` of the whole,
`pulsering_check_part_grade` and `pulsering_check_value` of each; `--file` puts it into the directory of
node_exporter's textfile collector in one step.
"""


class Verb(NamedTuple):
    """A verb of ours: how it is typed, what it does, and what may follow."""

    name: str
    function: Callable[..., object]

    @property
    def help(self) -> str:
        """Its docstring, which is markup."""
        return inspect.cleandoc(self.function.__doc__ or "")

    def parameters(self) -> "Iterator[tuple[inspect.Parameter, Any, Any]]":
        """Each with its type, and what typer is told of it."""
        hints = get_type_hints(self.function, include_extras=True)
        for parameter in inspect.signature(self.function).parameters.values():
            kind, *told = get_args(hints[parameter.name])
            yield parameter, kind, told[0]


def verbs() -> list[Verb]:
    """Return every verb of ours, in the order of the help."""
    app, theirs = build_app(), _theirs()
    found = [
        Verb(f"pulsering {info.name}", info.callback)
        for info in app.registered_commands
        if info.callback is not None and info.name not in theirs
    ]
    for group in app.registered_groups:
        if group.name not in theirs and group.typer_instance is not None:
            found += (
                Verb(f"pulsering {group.name} {info.name}", info.callback)
                for info in group.typer_instance.registered_commands
                if info.callback is not None
            )
    return found


def reference() -> str:
    """The document."""
    ours = verbs()
    links = " · ".join(
        f"[{verb.name.removeprefix('pulsering ')}](#{verb.name.replace(' ', '-')})" for verb in ours
    )
    return "".join((_INTRODUCTION, f"\n## Verbs\n\n{links}\n", *map(_section, ours), _others()))


def examples_of(verb: Verb) -> str:
    """Return the lines of its help that stand after one of ``\\b``."""
    return "\n".join(_plain(each.strip("\b\n ")) for each in verb.help.split("\n\n") if "\b" in each)


def _section(verb: Verb) -> str:
    words = "\n\n".join(_plain(each) for each in verb.help.split("\n\n") if "\b" not in each)
    arguments = [each for each in verb.parameters() if isinstance(each[2], ArgumentInfo)]
    options = [each for each in verb.parameters() if isinstance(each[2], OptionInfo)]
    usage = " ".join([verb.name, *map(_argument, arguments), *(["[OPTIONS]"] if options else [])])
    rows = [(f"`{_argument(each)}`", _told(each)) for each in arguments]
    rows += [(_option(each), _told(each)) for each in options]
    text = f"\n### {verb.name}\n\n{words}\n\n```console\n{examples_of(verb)}\n```\n\n`{usage}`\n"
    if rows:
        text += "\n| | |\n|---|---|\n" + "".join(f"| {left} | {right} |\n" for left, right in rows)
    if verb.name == "pulsering status":
        text += _STATES_HEAD + "".join(f"| `{state}` | {means} |\n" for state, (means, _) in STATES.items())
    if verb.name == "pulsering check":
        text += _CHECKS_HEAD + "".join(map(_check, CHECKS)) + _CHECKS_FOOT
    return text


def _argument(each: tuple[inspect.Parameter, Any, Any]) -> str:
    parameter, kind, info = each
    name = info.metavar or parameter.name.upper()
    if parameter.default is not parameter.empty and not name.startswith("["):
        name = f"[{name}]"
    return f"{name}…" if get_origin(kind) is list else name


def _option(each: tuple[inspect.Parameter, Any, Any]) -> str:
    parameter, kind, info = each
    # In Annotated the first name stands where a default would.
    names = [*([info.default] if isinstance(info.default, str) else []), *(info.param_decls or ())]
    shown = ", ".join(f"`{name}`" for name in names or [f"--{parameter.name.replace('_', '-')}"])
    if kind is bool:
        return shown
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"{shown} {' or '.join(f'`{choice.value}`' for choice in kind)}"
    return f"{shown} {info.metavar or ('N' if int in (kind, *get_args(kind)) else parameter.name.upper())}"


def _told(each: tuple[inspect.Parameter, Any, Any]) -> str:
    parameter, _, info = each
    default = parameter.default
    words = _plain(info.help).replace("|", "\\|")
    if (
        default is parameter.empty
        or default is None
        or isinstance(default, bool)
        or info.show_default is False
    ):
        return words
    return f"{words} Default `{default.value if isinstance(default, Enum) else default}`."


def _check(check: Check) -> str:
    def edge(value: float) -> str:
        return "-" if math.isinf(value) else f"{value:g}{'' if check.unit == 'nodes' else f' {check.unit}'}"

    return f"| `{check.name}` | {edge(check.limit.warning)} | {edge(check.limit.critical)} | {check.what} |\n"


def _theirs() -> set[str]:
    return {plugin.name for plugin in importlib.metadata.entry_points(group=PLUGIN_GROUP)}


def _others() -> str:
    app, theirs = build_app(), _theirs()
    told = [(info.name, info.callback.__doc__ if info.callback else "") for info in app.registered_commands]
    told += [
        (group.name, group.typer_instance.info.help if group.typer_instance else "")
        for group in app.registered_groups
    ]
    lines = []
    for name, words in told:
        if name in theirs:
            first = re.split(r"(?<=[.:;])\s", _plain(inspect.cleandoc(words or "")), maxsplit=1)[0]
            lines.append(f"| `pulsering {name}` | {first.rstrip(':.;')}. |\n")
    return _OTHERS_HEAD + "".join(lines) if lines else ""


def _plain(markup: str | None) -> str:
    return Text.from_markup(markup or "").plain


if __name__ == "__main__":
    print(reference(), end="")
