"""A process that is asked to test paths and does what DOING says of each engine: `python -m killed_paths`."""

from __future__ import annotations

import os
import sys
import threading

from trainables import asked_process
from trainables.engine_paths import Tried
from trainables.packing.path_tests import READY, PathsToTest


def main() -> None:
    question = PathsToTest.model_validate_json(asked_process.question())
    doing = dict(each.split("=") for each in os.environ["DOING"].split())
    print(READY, flush=True)
    for path, _ in question.paths:
        match doing.get(path.engine):
            case "die":
                print("no kernel", file=sys.stderr, flush=True)
                os._exit(3)
            case "hang":
                threading.Event().wait()
        print(Tried(path=path).model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
