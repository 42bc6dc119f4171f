"""How a run is stopped by a signal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from evolve.runs.execute import Stopped, stoppable


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def test_a_signal_stops_a_run(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(Stopped) as stop, stoppable():
        os.kill(os.getpid(), number)
    assert stop.value.signal == number and signal.getsignal(number) is signal.SIG_DFL


def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with stoppable():
        os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_IGN
