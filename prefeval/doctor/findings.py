"""What an examination finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing seen: `remedy` is what to do about it. A problem will stop or spoil a run, a warning may."""

    level: Level
    check: str
    message: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)
