"""Results on their way through a file.

A process that is killed while it writes a long message into a pipe leaves the reader waiting for the rest for ever.
A path is short enough to arrive whole or not at all.
"""

import json
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from gradleak.audits.executing import Call, Results
from gradleak.audits.store import PackedTrial


@dataclass(frozen=True)
class Spooled:
    """A call whose results stay in a file of `folder`; it returns the file's path."""

    call: Call
    folder: str

    def __call__(self) -> str:
        """Run the call."""
        results = self.call()
        path = Path(self.folder) / uuid4().hex
        path.parent.mkdir(exist_ok=True)
        parts = [part for trial in results.trials for part in (trial.line, trial.images, trial.texts)]
        sizes = [None if part is None else len(part) for part in parts]
        head = json.dumps({"seconds": results.seconds, "ids": [trial.id for trial in results.trials], "sizes": sizes})
        path.write_bytes(b"".join([head.encode() + b"\n", *(part for part in parts if part is not None)]))
        return str(path)


def read_spooled(future: "Future[str]") -> "Future[Results]":
    """A future of the results from one of the path; the file is removed."""
    results: Future[Results] = Future()

    def arrived(done: "Future[str]") -> None:
        try:
            results.set_result(_read(Path(done.result())))
        # Whatever went wrong belongs to whoever asks for the result.
        except (Exception, CancelledError) as error:  # noqa: BLE001
            results.set_exception(error)

    future.add_done_callback(arrived)
    return results


def _read(path: Path) -> Results:
    head, _, rest = path.read_bytes().partition(b"\n")
    path.unlink()
    facts = json.loads(head)
    parts: list[bytes | None] = []
    offset = 0
    for size in facts["sizes"]:
        parts.append(None if size is None else rest[offset : offset + size])
        offset += size or 0
    trials = [
        PackedTrial(identity, line or b"", images, texts)
        for identity, line, images, texts in zip(facts["ids"], parts[::3], parts[1::3], parts[2::3], strict=True)
    ]
    return Results(tuple(trials), facts["seconds"])
