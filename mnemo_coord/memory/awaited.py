"""The memories for asyncio: the same names, awaited. It has no logic of its own; every call runs in a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from mnemo_coord.memory.links import MemoryLink
    from mnemo_coord.memory.memories import Memories
    from mnemo_coord.memory.memory import Memory, MemoryGlance
    from mnemo_coord.memory.transfer import Imported

__all__ = ["AsyncMemories"]


class AsyncMemories:
    """See `mnemo_coord.Memories`."""

    def __init__(self, memories: Memories) -> None:
        self.sync = memories

    async def store(self, content: str, **options: Any) -> Memory:
        """See `Memories.store`."""
        return await asyncio.to_thread(self.sync.store, content, **options)

    async def change(self, memory_id: str, change: Callable[[Memory], Memory]) -> Memory:
        """See `Memories.change`."""
        return await asyncio.to_thread(self.sync.change, memory_id, change)

    async def forget(self, *memory_ids: str) -> int:
        """See `Memories.forget`."""
        return await asyncio.to_thread(self.sync.forget, *memory_ids)

    async def get(self, memory_id: str) -> Memory:
        """See `Memories.get`."""
        return await asyncio.to_thread(self.sync.get, memory_id)

    async def recall(self, query: str | None = None, **options: Any) -> list[Memory]:
        """See `Memories.recall`."""
        return await asyncio.to_thread(self.sync.recall, query, **options)

    async def similar(self, embedding: Sequence[float], **options: Any) -> list[tuple[Memory, float]]:
        """See `Memories.similar`."""
        return await asyncio.to_thread(self.sync.similar, embedding, **options)

    async def count(self, namespace: str | None = None) -> int:
        """See `Memories.count`."""
        return await asyncio.to_thread(self.sync.count, namespace)

    async def link(self, source: str, target: str, *kind: str, **options: Any) -> MemoryLink:
        """See `Memories.link`."""
        return await asyncio.to_thread(self.sync.link, source, target, *kind, **options)

    async def strengthen(self, source: str, target: str, *kind: str, **options: Any) -> MemoryLink:
        """See `Memories.strengthen`."""
        return await asyncio.to_thread(self.sync.strengthen, source, target, *kind, **options)

    async def unlink(self, source: str, target: str, *kind: str) -> bool:
        """See `Memories.unlink`."""
        return await asyncio.to_thread(self.sync.unlink, source, target, *kind)

    async def links(self, memory_id: str) -> list[MemoryLink]:
        """See `Memories.links`."""
        return await asyncio.to_thread(self.sync.links, memory_id)

    async def backup(self, target: str | os.PathLike[str]) -> Path:
        """See `Memories.backup`."""
        return await asyncio.to_thread(self.sync.backup, target)

    async def export(self, write: Callable[[str], object], **options: Any) -> int:
        """See `Memories.export`."""
        return await asyncio.to_thread(self.sync.export, write, **options)

    async def import_lines(self, lines: Iterable[str], **options: Any) -> Imported:
        """See `Memories.import_lines`."""
        return await asyncio.to_thread(self.sync.import_lines, lines, **options)

    async def glance(self) -> MemoryGlance | None:
        """See `Memories.glance`."""
        return await asyncio.to_thread(self.sync.glance)
