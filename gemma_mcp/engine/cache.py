"""What becomes of the KV cache in the next step: trims, forks and checkpoints, and what they left in the slots."""

from collections.abc import Mapping

from gemma_mcp.engine.backend import Fork, Row, Save, Spare, Step, Trim
from gemma_mcp.engine.slots import Slot
from gemma_mcp.types import ModelInfo

__all__ = ["KvCache"]


class KvCache:
    """The slots of a worker, and the changes that wait for its next step. A new worker gets a new one.

    Checkpoints are made where a sliding window would forget. They take `checkpoint_bytes` at most: the one unused for
    longest is dropped first, and those that no slot can use any more.
    """

    def __init__(self, info: ModelInfo, checkpoint_bytes: int) -> None:
        self.slots = [Slot(index) for index in range(info.slots)]
        self._checkpoint_bytes = checkpoint_bytes if info.window else 0
        self._trims: dict[int, Trim] = {}
        self._forks: dict[int, Fork] = {}
        self._saves: list[Save] = []
        self._sizes: dict[int, int] = {}
        self._numbers = 0
        self._doubtful: tuple[int, ...] = ()
        """Checkpoints that a failed step may have made, or not dropped."""

    def settled(self, slot: Slot) -> bool:
        """Whether what the slot is said to hold is there now."""
        waits = slot.job is not None and not slot.job.ready
        return not waits and slot.index not in self._trims and slot.index not in self._forks

    def trim(self, slot: Slot, keep: int) -> None:
        """Shorten a slot to so many positions; a fork that was to come to it does not."""
        self._forks.pop(slot.index, None)
        self._trims[slot.index] = Trim(slot.index, keep, self._spare(slot, keep))
        if not keep:
            slot.hold([])

    def fork(self, source: Slot, target: Slot, keep: int) -> None:
        """Let a slot begin as another one does."""
        if len(source.ids) == keep:
            self.save(source)
        self._trims.pop(target.index, None)  # a fork empties its target
        self._forks[target.index] = Fork(source.index, target.index, keep, self._spare(source, keep))
        target.begin_as(source, keep)

    def save(self, slot: Slot) -> None:
        """Make a checkpoint of a slot as it stands, unless there is one."""
        at = len(slot.ids)
        if self._checkpoint_bytes and at and at not in slot.checkpoints:
            self._numbers += 1
            self._saves.append(Save(slot.index, self._numbers))
            self._sizes[self._numbers] = 0  # known when it is made
            slot.checkpoints[at] = self._numbers

    def step(self, rows: tuple[Row, ...]) -> Step:
        """All that was asked for since the last one, and these rows."""
        step = Step(
            drops=(*self._doubtful, *self._drops()),
            saves=tuple(self._saves),
            trims=tuple(self._trims.values()),
            forks=tuple(self._forks.values()),
            rows=rows,
        )
        self._trims, self._forks, self._saves, self._doubtful = {}, {}, [], ()
        return step

    def made(self, saved: Mapping[int, int]) -> None:
        """Checkpoints were made, of so many bytes."""
        self._sizes |= saved

    def failed(self, step: Step) -> None:
        """Nothing is taken for granted about the slots that it was to change, nor about its checkpoints."""
        for index in step.touched:
            self.trim(self.slots[index], 0)
        saves = frozenset(save.checkpoint for save in step.saves)
        self._forget(saves)
        self._sizes = {number: size for number, size in self._sizes.items() if number not in saves}
        self._doubtful = (*self._doubtful, *step.drops, *saves)

    def drop_idle(self) -> bool:
        """Give up what unused slots still hold. Says whether that freed anything."""
        idle = [slot for slot in self.slots if slot.job is None and slot.ids]
        for slot in idle:
            self.trim(slot, 0)
        return bool(idle)

    def _spare(self, slot: Slot, keep: int) -> Spare | None:
        spare = slot.spare(keep)
        if spare is not None:
            self._sizes[spare.checkpoint] = self._sizes.pop(spare.checkpoint)  # the newest now
        return spare

    def _drops(self) -> tuple[int, ...]:
        """Checkpoints that no slot can use, and the oldest beyond the bound."""
        if not self._sizes:
            return ()
        needed = self._needed()
        usable = {number for slot in self.slots for number in slot.checkpoints.values()} | needed
        drops = [number for number in self._sizes if number not in usable]
        total = sum(size for number, size in self._sizes.items() if number in usable)
        for number, size in self._sizes.items():
            if total > self._checkpoint_bytes and number in usable and number not in needed:
                drops.append(number)
                total -= size
        for number in drops:
            del self._sizes[number]
        self._forget(frozenset(drops))
        return tuple(drops)

    def _needed(self) -> set[int]:
        """Checkpoints of the next step."""
        spares = [change.spare for change in (*self._trims.values(), *self._forks.values()) if change.spare]
        return {spare.checkpoint for spare in spares} | {save.checkpoint for save in self._saves}

    def _forget(self, drops: frozenset[int]) -> None:
        for slot in self.slots if drops else ():
            slot.checkpoints = {at: number for at, number in slot.checkpoints.items() if number not in drops}
