"""The process of one installed copy of evolve, which :mod:`against` starts.

It is run as text in the copy's folder, so it may name only what that version has, too: its own
benchmark's sides. A line in is a command as JSON, a line out the answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def flat(section: Any, before: str = "") -> dict[str, Any]:
    """Settings by name, "condense.batch", as JSON holds them."""
    if not isinstance(section, dict):
        return {before: section}
    return {
        name: value
        for key, part in section.items()
        for name, value in flat(part, f"{before}.{key}".strip(".")).items()
    }


def main(cache: str, out: TextIO) -> None:
    """Answer commands until there are no more.

    ["open", case]: get ready; the case's settings, or null where there is no such case.
    ["run", amount]: train so much; "images" and "cpu" seconds.
    """
    import evolve.benchmarks
    from evolve.benchmarks.speed.bench_process import BenchProcess
    from evolve.benchmarks.speed.cases import all_cases
    from evolve.benchmarks.speed.processes import Role

    from evolve.core import toml

    here = Path.cwd()
    for package in (evolve, evolve.benchmarks):
        if not Path(next(iter(package.__path__))).resolve().is_relative_to(here.resolve()):
            raise SystemExit(f"{package.__name__} is not this copy's: {package.__path__}")
    bench = BenchProcess(Role(False, "cpu", Path(cache), 0, "spawn"))
    cases = {case.name: case for case in all_cases(False)}
    for line in sys.stdin:
        command, argument = json.loads(line)
        answer: Any = None
        if command == "open" and argument in cases:
            bench.open(cases[argument], 0.0)
            sections = toml.to_dict(cases[argument].settings).items()
            answer = flat({name: part for name, part in sections if isinstance(part, dict)})
        elif command == "run":
            bench.prepare()
            begun = time.process_time()
            images = bench.side.run(argument)
            answer = {"images": images, "cpu": time.process_time() - begun}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    main(sys.argv[1], answers)
