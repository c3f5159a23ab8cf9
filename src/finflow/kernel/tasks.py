"""What a task of asyncio may ask of itself."""

import asyncio


def is_cancelled() -> bool:
    """Whether the running task has been asked to stop: what fails at that very moment may swallow it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
