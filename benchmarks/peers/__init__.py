"""What carries messages: ours and what people would use instead, behind one small interface.

A peer has ``name``, ``available() -> reason why not or ""``, ``prepare(place)``, ``sender(place, number) -> send(bytes)`` and
``receiver(place) -> iterator of bytes``, each called in its own process.
"""
