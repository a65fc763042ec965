"""What a client knows of one node's word: whether it is asked, whether it speaks, and how old its word is.

::

    DOWN --connected--> NEW --first user: a WATCH without keys--> PROBING --answered--> SERVING
      ^                  ^__________no word for three pulses________|____________________|
      |_____________________________connection lost____________________________________|

The probe is there because an older node ends the connection for a full request, and because its answer is
younger than whatever was on the way before. A node that is watched speaks at least once a pulse. One that is
asked and gives no answer for a pulse is *silent*; one that has not spoken for three is *stale*: nothing it
has said is known to hold any more, and it has no word until it has answered a probe and was asked for
everything afresh. A frame that was under way for as long is no better. Pure; time is told in pieces.

Invariant: an ask is among ``asks`` only while its answer would be the start of a thread that is not cut.
"""

from enum import Enum
from typing import Final

from pulsering._watch_table import ABSENT, COLD, MOVED, PENDING, SILENT, UNREACHABLE

__all__ = ["PULSES_MISSED_MAX", "Ask", "Phase", "Stream", "Turn"]

PULSES_MISSED_MAX: Final = 3
"""docs/protocol.md, WATCH."""


class Phase(Enum):
    """How far it is with a node."""

    DOWN = 0
    NEW = 1
    PROBING = 2
    SERVING = 3


class Ask:
    """One WATCH request about packed ``keys``; ``want`` is WATCH or STOP_WATCH of ``messages``."""

    __slots__ = ("keys", "node", "want")

    def __init__(self, node: str, want: int, keys: bytes) -> None:
        self.node = node
        self.want = want
        self.keys = keys

    @property
    def is_probe(self) -> bool:
        """Whether it only asks if it may be asked."""
        return not self.keys


class Turn(Enum):
    """What a stream has come to, where something follows from it."""

    SPOKE = 1
    """Its word counts."""
    AFRESH = 2
    """Everything has to be asked again: what is known was said under other conditions."""
    LATE = 3
    """What it says is too old to count, and says nothing new."""
    FELL_SILENT = 4
    WENT_STALE = 5


class Stream:
    """One node's."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.phase = Phase.DOWN
        self.asks: dict[Ask, None] = {}
        """Without an answer."""
        self.told = False
        """Whether it has users to speak of, as far as is known."""
        self._stale = False
        self._silent = False
        self._epoch = 0
        self._cold = False
        self._quiet_ms = 0.0  # since its last word
        self._unanswered_ms = 0.0  # since its last answer, or since it was asked
        self._ahead_ms = 0.0
        self._rest_ms = 0.0
        self._refused: list[Ask] = []

    @property
    def word(self) -> int:
        """What stands in the table for a user of whom it has not spoken."""
        if self.phase is Phase.DOWN or self._stale:
            return UNREACHABLE
        return SILENT if self._silent else PENDING

    @property
    def may_tell(self) -> bool:
        """Whether it was asked for users on this connection, and tells of them until it is stopped."""
        return self.phase is Phase.SERVING or self._stale

    def disowned(self, ours: int, pulse_ms: int) -> tuple[int, int]:
        """What *moved* stands for from an owner, and from a former one; ``ours`` is the epoch we follow.

        A node ahead of us knows of a topology that we are about to have: until then nothing is known. One
        behind us cannot know of slots that it is about to gain.
        """
        present = MOVED
        if self._epoch < ours:
            present = COLD
        elif self._epoch > ours and self._ahead_ms < PULSES_MISSED_MAX * pulse_ms:
            present = PENDING
        return present, COLD if self._cold else ABSENT

    def begin(self, phase: Phase) -> None:
        """A connection was made, or lost: what was said on another one does not count here."""
        self._stale = False
        self._begin(phase)

    def _begin(self, phase: Phase) -> None:
        self.phase = phase
        self._silent = self._cold = self.told = False
        self._epoch = 0
        self._quiet_ms = self._unanswered_ms = self._ahead_ms = self._rest_ms = 0.0
        self._refused.clear()
        self.asks.clear()

    def serve(self) -> None:
        """It has answered the probe."""
        self.phase = Phase.SERVING
        self._stale = False

    def ask(self, want: int, keys: bytes) -> Ask:
        """A question to it."""
        if not self.asks:
            self._unanswered_ms = 0.0
            if not self.told:
                self._quiet_ms = 0.0
        ask = Ask(self.node, want, keys)
        self.asks[ask] = None
        return ask

    def answered(self, ask: Ask) -> None:
        """It has answered an ask, or refused it; what it says unasked is no answer."""
        del self.asks[ask]
        self._silent = False
        self._unanswered_ms = 0.0

    def refuse(self, ask: Ask, rest_ms: float) -> None:
        """It did not take an ask, which is to be repeated when it has rested."""
        self._refused.append(ask)
        self._rest_ms = max(self._rest_ms, rest_ms)

    def hear(self, epoch: int, warming_ms: int, age_ms: int, pulse_ms: int) -> Turn:
        """It spoke: ``age_ms`` is how long the frame was under way beyond what frames take."""
        if age_ms >= PULSES_MISSED_MAX * pulse_ms:
            if self.phase is not Phase.SERVING:
                return Turn.LATE
            self._go_stale()
            return Turn.WENT_STALE
        afresh = self._epoch not in (0, epoch) or (self._cold and not warming_ms)
        self._epoch, self._cold = epoch, warming_ms > 0
        self._quiet_ms = 0.0
        return Turn.AFRESH if afresh and not self._stale else Turn.SPOKE

    def pass_time(self, ms: float, ours: int, pulse_ms: int) -> Turn | None:
        """Time passes while users are watched; ``ours`` is the epoch that the client follows."""
        if not self.told and not self.asks:
            return None
        self._quiet_ms += ms
        if self._quiet_ms >= PULSES_MISSED_MAX * pulse_ms and not self._stale:
            self._go_stale()
            return Turn.WENT_STALE
        before = self._ahead_ms
        self._ahead_ms = before + ms if self._epoch > ours else 0.0
        if before < PULSES_MISSED_MAX * pulse_ms <= self._ahead_ms:
            return Turn.AFRESH
        self._unanswered_ms += ms if self.asks else 0.0
        if self._unanswered_ms >= pulse_ms and not self._silent and not self._stale:
            self._silent = True
            return Turn.FELL_SILENT
        return None

    def rested(self, ms: float) -> list[Ask]:
        """What to ask again, once it has had its rest."""
        self._rest_ms = max(0.0, self._rest_ms - ms)
        if self._rest_ms or not self._refused:
            return []
        refused, self._refused = self._refused, []
        return refused

    def _go_stale(self) -> None:
        self._begin(Phase.NEW)
        self._stale = True
