from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from medml.store.database import Database, open_database
from medml.store.leases import LeaseLost, Leases, owner_alive, this_owner


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


def test_held_lease_is_not_given_twice(leases: Leases) -> None:
    lease = leases.take("device:cpu:0", this_owner(), 60.0)
    assert lease is not None
    assert leases.take("device:cpu:0", "other/1/1", 60.0) is None
    assert leases.take("device:cpu:1", "other/1/1", 60.0) is not None
    leases.check(lease)


def test_token_grows_at_every_take(leases: Leases) -> None:
    tokens = []
    for _ in range(3):
        lease = leases.take("device:cpu:0", this_owner(), 60.0)
        assert lease is not None
        tokens.append(lease.token)
        leases.release(lease)
    assert tokens == [1, 2, 3]


def test_expired_lease_is_taken_over_and_its_owner_told(leases: Leases) -> None:
    first = leases.take("device:cpu:0", "far/1/1", 0.0)
    second = leases.take("device:cpu:0", this_owner(), 60.0)
    assert first is not None
    assert second is not None
    assert second.token == 2
    for use in (leases.check, leases.beat):
        with pytest.raises(LeaseLost, match="the owner was silent for too long"):
            use(first)
    leases.release(first)
    leases.check(second)


def test_beat_prolongs_a_lease(leases: Leases) -> None:
    lease = leases.take("device:cpu:0", "far/1/1", 0.0)
    assert lease is not None
    longer = leases.beat(lease.model_copy(update={"ttl_seconds": 60.0}))
    assert longer.expires > lease.expires
    assert leases.take("device:cpu:0", this_owner(), 60.0) is None


def test_released_lease_is_lost_to_its_owner(leases: Leases) -> None:
    lease = leases.take("device:cpu:0", this_owner(), 60.0)
    assert lease is not None
    leases.release(lease)
    with pytest.raises(LeaseLost, match="nobody holds token 1"):
        leases.check(lease)


def test_unknown_lease_is_lost(leases: Leases) -> None:
    lease = leases.take("device:cpu:0", this_owner(), 60.0)
    assert lease is not None
    with pytest.raises(LeaseLost, match="nobody holds token 0"):
        leases.check(lease.model_copy(update={"name": "device:cpu:9"}))


def test_lease_of_a_killed_process_is_taken_at_once(leases: Leases, any_url: str) -> None:
    script = (
        "import time; from medml.store.database import open_database; "
        "from medml.store.leases import Leases, this_owner; "
        f"print(Leases(open_database({any_url!r})).take('device:cpu:0', this_owner(), 600.0).token, flush=True); "
        "time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "1"
    assert leases.take("device:cpu:0", this_owner(), 60.0) is None
    os.kill(child.pid, signal.SIGKILL)
    began = time.monotonic()
    while (lease := leases.take("device:cpu:0", this_owner(), 60.0)) is None and time.monotonic() - began < 10:
        time.sleep(0.01)  # the signal needs a moment; the dead child is not even waited for
    child.wait()
    child.stdout.close()
    assert lease is not None
    assert lease.token == 2


def test_owner_is_alive_dead_or_unknown() -> None:
    host, pid, start = this_owner().split("/")
    assert owner_alive(this_owner()) is True
    assert owner_alive(f"{host}/{pid}/{int(start) + 1}") is False  # the number was given to a new process
    assert owner_alive(f"{host}/4194304/{start}") is False
    assert owner_alive(f"elsewhere/{pid}/{start}") is None
    assert owner_alive("somebody") is None
    assert owner_alive(f"{host}/x/{start}") is None


def test_one_slot_is_never_held_by_two_processes(any_url: str) -> None:
    open_database(any_url).close()
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        spans = [span for part in pool.map(_hold_often, [any_url] * 4) for span in part]
    assert sorted(token for _, _, token in spans) == list(range(1, len(spans) + 1))
    spans.sort()
    assert all(end <= begin for (_, end, _), (begin, _, _) in itertools.pairwise(spans))
    assert len(spans) == 40


def _hold_often(url: str) -> list[tuple[float, float, int]]:
    leases, spans = Leases(open_database(url)), []
    while len(spans) < 10:
        lease = leases.take("device:cuda:0", this_owner(), 60.0)
        if lease is None:
            time.sleep(0.002)
            continue
        began = time.monotonic()
        time.sleep(0.002)
        leases.beat(lease)
        spans.append((began, time.monotonic(), lease.token))
        leases.release(lease)
    return spans
