"""What every test relies on: one torch thread per worker, and real data where it is at hand."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    # The workers share the cores; with torch's default each would start a thread per core, and all would crawl.
    # A fixed count also fixes the order of sums, on which "same seed, same bits" depends.
    torch.set_num_threads(1)
    # Machines of continuous integration are busy: how long an example takes says nothing about the code.
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder with real images and texts, named by the environment variable GRADLEAK_DATA."""
    named = os.environ.get("GRADLEAK_DATA")
    if not named:
        pytest.skip("needs real data: set GRADLEAK_DATA to the folder that holds it")
    folder = Path(named)
    # A wrong path is a mistake, not a machine without data: skipping here would hide it.
    assert folder.is_dir(), f"GRADLEAK_DATA: expected a folder, got {named!r}"
    return folder
