"""How the threads that compute wait for each other."""

from __future__ import annotations

import os


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep while they wait, unless the environment says otherwise.

    Their default is to spin, which takes the core from the thread that they wait for where another program
    is busy. It is read once, when torch is loaded, and so has to be said before; child processes inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
