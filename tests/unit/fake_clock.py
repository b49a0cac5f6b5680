"""A clock that stands still until a test moves it."""

from __future__ import annotations

SECOND = 1_000_000_000


class FakeClock:
    """What `mnemo_coord.disk.clock.Clock` asks for; ages and the wall move only by `advance` and `reboot`."""

    def __init__(self, boot_id: str = "00000000-boot", age: float = 1_000.0, wall: float = 1_800_000_000.0) -> None:
        self._boot_id = boot_id
        self._age_ns = int(age * SECOND)
        self._wall_ns = int(wall * SECOND)

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def age_ns(self) -> int:
        return self._age_ns

    def wall_ns(self) -> int:
        return self._wall_ns

    def advance(self, seconds: float, *, wall: float | None = None) -> None:
        """Lets ``seconds`` pass; ``wall`` is how far the wall clock goes meanwhile, if not as far (it may go back)."""
        if seconds < 0:
            raise ValueError("ages never go back within one boot")
        self._age_ns += int(seconds * SECOND)
        self._wall_ns += int((seconds if wall is None else wall) * SECOND)

    def reboot(self, boot_id: str) -> None:
        """Starts the ages anew under another boot id."""
        self._boot_id, self._age_ns = boot_id, 0
