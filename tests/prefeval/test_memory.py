"""Giving memory back: how often, and that the peak is in plausible units."""

from __future__ import annotations

import pytest

from prefeval import memory


def test_release_is_called_no_more_often_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr(memory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(memory, "release", lambda: calls.append(now[0]))
    releaser = memory.Releaser(5.0)
    for moment in (1.0, 5.0, 5.1, 6.0, 10.0, 10.2):
        now[0] = moment
        releaser()
    assert calls == [5.1, 10.2]


@pytest.mark.slow
def test_peak_grows_with_what_is_held() -> None:
    memory.release()
    before = memory.peak_gigabytes()
    held = bytearray(int(4e8) + int(before * 1e9))
    assert memory.peak_gigabytes() - before > 0.3
    assert len(held) > 4e8
    assert 0.01 < before < 100
