"""Who this machine is to a store.

A host name does not say: two containers may have one, and so may two nodes. So each machine has a
random name in the store's own folder, ``machines/``, in a file for every boot of it. A process
finds its own by host name and boot id, which no other kernel has at the same time.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evolve.core.durable import digest, to_json, write_file
from evolve.core.foreign import parse_json, read_bounded

FOLDER = "machines"
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Machine:
    """A machine in one store.

    Attributes:
        name: random; kept over a reboot.
        boot: tells its boots apart.
    """

    name: str
    boot: str

    def __str__(self) -> str:
        return f"{self.name}.{self.boot}"


def this_machine(root: Path) -> Machine:
    """This machine's identity in a store, made at the first time.

    After a reboot it takes over the name of the machine with its host name and hardware, unless
    that one has opened the store since: then it is another machine, such as a clone that runs.

    Args:
        root: the store's folder, which has the folder :data:`FOLDER`.

    Raises:
        OSError: the folder cannot be written.
    """
    facts = {"host": socket.gethostname(), "hardware": _hardware()}
    boot = digest(json.dumps([*facts.values(), _boot_id()]).encode())[:16]
    file = root / FOLDER / f"{boot}.json"
    if (name := _name(file, facts)) is None:
        new = root / FOLDER / f".{boot}.{secrets.token_hex(6)}"
        write_file(new, b"")
        name = _earlier(root, facts, new.stat().st_mtime) or secrets.token_hex(8)
        new.unlink()
        write_file(new, to_json(facts | {"machine": name}))
        with suppress(OSError):  # the first of several processes wins, where there are links
            os.link(new, file)
        if (winner := _name(file, facts)) is None:  # no links, or a damaged file in the way
            os.replace(new, file)
        new.unlink(missing_ok=True)
        name = winner or name
    os.utime(file)
    return Machine(name, boot)


def uptime() -> float:
    """Seconds since this machine was booted, its sleep included; infinite where nobody says."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return math.inf if clock is None else time.clock_gettime(clock)


def _earlier(root: Path, facts: Mapping[str, str], now: float) -> str | None:
    """The name that this machine had before its last boot.

    Args:
        root: the store's folder.
        facts: what tells the machine.
        now: the time by the clock that wrote the files there.
    """
    candidates = [
        (file.stat().st_mtime, name)
        for file in (root / FOLDER).glob("*.json")
        if facts["hardware"] and (name := _name(file, facts)) is not None
    ]
    used, name = max(candidates, default=(math.inf, ""))
    return name if now - used > uptime() else None


def _name(file: Path, facts: Mapping[str, str]) -> str | None:
    """The machine that a file names, if the facts are its; None if not, or if it is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        told = parse_json(read_bounded(file, _MOST_BYTES))
        if {key: told[key] for key in facts} == facts and isinstance(told["machine"], str):
            return str(told["machine"])
    return None


def _boot_id() -> str:
    """What no other running kernel has; "" where nobody says."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _hardware() -> str:
    """The installation's id, or the network card's; "" where there is none."""
    with suppress(OSError):
        if told := Path("/etc/machine-id").read_text().strip():
            return told
    node = uuid.getnode()
    return "" if node >> 40 & 1 else f"{node:x}"  # that bit marks a random one
