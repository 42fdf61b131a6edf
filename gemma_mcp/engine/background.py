"""A task that lives as long as a `with` block."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio

__all__ = ["background"]


@asynccontextmanager
async def background(work: Callable[[], Coroutine[Any, Any, object]]) -> AsyncGenerator[None]:
    """Run `work` beside the block and cancel it at the end. An error of the block comes out as itself, in no group."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
