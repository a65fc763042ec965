"""Runs a test on stock asyncio and on uvloop, and looks for what it left behind."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Turn an async test into one for each kind of loop; a task that outlives it fails it."""

    async def checked(*args: Any, **kwargs: Any) -> None:
        await test(*args, **kwargs)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    @functools.wraps(test)
    def run(*args: Any, loop_kind: str, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
            runner.run(checked(*args, **kwargs))

    signature = inspect.signature(test)
    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    del run.__wrapped__
    vars(run)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), kind])
    on_both: Callable[..., None] = pytest.mark.parametrize("loop_kind", list(LOOPS))(run)
    return on_both
