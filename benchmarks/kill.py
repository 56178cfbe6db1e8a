"""SIGKILL to the coordinator and to workers of an audit at random moments; then the store has to be as if nothing was.

    python benchmarks/kill.py --kills 50 --batches 50

An audit of quick trials runs once in peace in one process, and once on worker processes while it is killed again and
again and started again with the same command. Then every trial has to be there once, with the same scores, course and
images. After each death of a coordinator its workers have to be gone soon. At the end come a torn last line, a deleted
index, a second writer, a disk that fills up (a small tmpfs) and a read-only one; both need the right to mount. Linux
only.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

import gradleak as gl
from gradleak.audits.store import Store

SPEC = """# Quick trials.
seed: 0
trials: {batches}
model: {{name: mlp, settings: {{hidden: [32]}}}}
data: digits
batch_size: [1, 2]
attack: [linear_layer, {{name: dlg, outer_steps: 2}}]
run: {{workers: 2, errors: null}}
"""

# A worker that is still importing torch when its coordinator dies sees that only afterwards.
ORPHAN_LIMIT_SECONDS = 60.0


def command(spec: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "gradleak", "audit", str(spec), "--out", str(out), "--retry-errors", "--json"]


def start(spec: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(spec, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(spec: Path, out: Path) -> tuple[int, str]:
    """Run to the end; exit code and what was said."""
    done = subprocess.run(command(spec, out), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def workers(coordinator: int) -> list[int]:
    """Processes of the coordinator that run trials."""
    found: list[int] = []
    with suppress(OSError):
        for child in Path(f"/proc/{coordinator}/task/{coordinator}/children").read_text().split():
            with suppress(OSError):
                if b"popen_loky_posix" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def lines(out: Path) -> int:
    path = out / "trials.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def outcomes(out: Path) -> dict[str, tuple[object, ...]]:
    """Every trial without times and places."""
    store = Store.open(out, create=False)
    found: dict[str, tuple[object, ...]] = {}
    for record in store.records():
        images = store.images(record)
        assert images is not None, f"{record.id} has no images"
        pixels = b"".join(part.numpy().tobytes() for part in (images.truth, images.reconstruction, images.snapshots))
        timeless = record.model_copy(update={"seconds": 0.0, "step_seconds": 0.0, "environment": {}})
        found[record.id] = (timeless.to_line(), pixels)
    return found


def check(reference: dict[str, tuple[object, ...]], out: Path, what: str) -> None:
    """Stop with what differs."""
    found = outcomes(out)
    assert set(found) == set(reference), f"{what}: {len(set(reference) ^ set(found))} trials lost or invented"
    different = [key for key in reference if found[key] != reference[key]]
    assert not different, f"{what}: {len(different)} trials differ, such as {different[0]}"
    records = [json.loads(line) for line in (out / "trials.jsonl").read_bytes().splitlines()]
    twice = [key for key, count in Counter(r["id"] for r in records if r["status"] != "error").items() if count > 1]
    assert not twice, f"{what}: {len(twice)} trials have two results"
    assert not list(out.rglob("*.part")), f"{what}: half-written files are left"
    print(f"{what}: {len(found)} trials as in the undisturbed run, none twice", flush=True)


def gone(processes: list[int]) -> float:
    """Seconds until these processes have ended."""
    began = time.monotonic()
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() - began < ORPHAN_LIMIT_SECONDS, "workers outlive their coordinator"
        time.sleep(0.05)
    return time.monotonic() - began


def killed_again_and_again(spec: Path, out: Path, kills: int, seed: int) -> None:
    """Kill at random moments, most of them soon after some progress, so that the audit gets on at all."""
    generator = np.random.default_rng(seed)
    counts, orphan_seconds = Counter[str](), 0.0
    process, before = start(spec, out), lines(out)
    while sum(counts.values()) < kills:
        patience = generator.integers(1, 5) if generator.random() < 0.8 else 0
        while process.poll() is None and lines(out) < before + patience:
            time.sleep(0.01)
        time.sleep(float(generator.uniform(0, 0.1 if patience else 3)))
        if process.poll() is not None:
            break  # finished before all kills
        own = workers(process.pid)
        if own and generator.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(own[generator.integers(len(own))], signal.SIGKILL)
                counts["worker"] += 1
        else:
            process.kill()
            process.wait()
            counts["coordinator"] += 1
            orphan_seconds = max(orphan_seconds, gone(own))
            process = start(spec, out)
        before = lines(out)
        print(f"kill {sum(counts.values())}: {before} lines", file=sys.stderr, flush=True)
    process.kill()
    process.wait()
    gone(workers(process.pid))
    print(f"kills: {dict(counts)}; workers outlived a coordinator by at most {orphan_seconds:.1f} s")


@contextmanager
def small_disk(folder: Path, size: str) -> Generator[bool]:
    """A tmpfs of this size; False where mounting is not allowed."""
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(options, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def full_and_read_only_disk(spec: Path, folder: Path, reference: dict[str, tuple[object, ...]]) -> None:
    with small_disk(folder, "200k") as mounted:
        if not mounted:
            print("full and read-only disk: left out, mounting is not allowed here")
            return
        out = folder / "out"
        code, said = finish(spec, out)
        assert code == 3, said
        assert "no space left on device" in said.lower(), said
        kept = outcomes(out)
        assert kept
        assert all(reference[key] == outcome for key, outcome in kept.items())
        code, said = finish(spec, out)
        assert code in {2, 3}, said
        assert "no space left on device" in said.lower(), said
        why = next(line.strip() for line in said.splitlines() if "no space left" in line.lower())
        print(f"full disk: exit code {code}, {len(kept)} finished trials kept; it says: {why}")
        remount(folder, "size=64m")
        code, said = finish(spec, out)
        assert code == 0, said
        check(reference, out, "full disk, resumed with more room")
        remount(folder, "ro")
        code, said = finish(spec, out)
        assert code == 2, said
        assert "read-only" in said, said
        check(reference, out, "read-only folder")
        print(f"read-only folder: exit code {code}; it says: {said.strip()}")


def small_accidents(spec: Path, out: Path, reference: dict[str, tuple[object, ...]]) -> None:
    path = out / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-100])
    code, said = finish(spec, out)
    assert (code, "cut off" in said) == (0, True), said
    check(reference, out, "torn last line")
    (out / "index.sqlite").unlink(missing_ok=True)
    assert finish(spec, out)[0] == 0
    check(reference, out, "deleted index")
    with Store.open(out).exclusive():
        code, said = finish(spec, out)
    assert code == 2, said
    assert "in use by process" in said, said
    print(f"second writer: exit code {code}; it says: {said.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--batches", type=int, default=50, help="captured batches of each of the four cells")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--kills-only", action="store_true", help="leave out what comes at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = folder / "spec.yaml"
        spec.write_text(SPEC.format(batches=options.batches))
        assert gl.audit(spec, out=folder / "reference", overrides=["run.backend=inprocess"]).complete
        reference = outcomes(folder / "reference")
        print(f"undisturbed: {len(reference)} trials", flush=True)
        out = folder / "killed"
        killed_again_and_again(spec, out, options.kills, options.seed)
        code, said = finish(spec, out)
        assert code == 0, said
        check(reference, out, "killed and resumed")
        if options.kills_only:
            return
        small_accidents(spec, out, reference)
        full_and_read_only_disk(spec, folder / "disk", reference)


if __name__ == "__main__":
    main()
