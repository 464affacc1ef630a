"""What every test process is told before it imports torch."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker would compute with as many threads as there are cores, and wait for those of the others.
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
