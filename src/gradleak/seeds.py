"""One independent random stream per stochastic stage, all derived from one seed."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch


def stage_generator(seed: int, stage: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one named stage (`"client"`, `"defense/0"`, `"attack"`, ...) of a seeded computation.

    Stages never share a stream, so adding draws to one stage leaves the others bit-identical, and no global
    random state is read or written.

    Args:
        seed: any integer; equal seeds and stages give equal streams.
        stage: the stage's name.
        device: where the generator draws.

    Returns:
        A freshly seeded generator.

    >>> a, b = stage_generator(0, "client"), stage_generator(0, "defense/0")
    >>> a.initial_seed() == b.initial_seed()
    False
    """
    digest = hashlib.sha256(f"{seed}/{stage}".encode()).digest()
    generator = torch.Generator(device=device)
    generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return generator


@contextmanager
def torch_seed(seed: int) -> Generator[None]:
    """Seed torch's own generator for code that draws from it and takes no other, and leave it as it was.

    Args:
        seed: at least 0. Only the CPU generator is touched.

    Yields:
        Nothing.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
