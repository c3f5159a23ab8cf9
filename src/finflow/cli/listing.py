"""The first so many of a list, and a word on standard error if there are more."""

from collections.abc import AsyncIterator
from typing import TypeVar

import click

T = TypeVar("T")

_MAX_PAGE = 1000


def page_size(limit: int) -> int:
    """How many to ask for at a time: one more than is shown tells whether there are more."""
    return min(limit + 1, _MAX_PAGE)


async def first(items: AsyncIterator[T], limit: int) -> list[T]:
    """The first `limit` items; says so where some are left."""
    found: list[T] = []
    async for item in items:
        if len(found) == limit:
            click.echo(f"There are more than {limit}; --limit shows more.", err=True)
            break
        found.append(item)
    return found
