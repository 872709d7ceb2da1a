"""Answers read by many threads at once, as an export reads them."""

from __future__ import annotations

import subprocess
import sys

# A process of its own: CPython fails at the first moment that two threads meet in ast.literal_eval, and only there.
many_threads = """
import gc, io, sys, threading, time
import numpy as np
from m3etl.io.answers import structured

class Slow:  # found by the garbage collector, it lets other threads run
    def __init__(self):
        self.me = self
    def __del__(self):
        time.sleep(0.0001)

def body(bands):
    stream = io.BytesIO()
    np.save(stream, np.zeros((4, 4), np.dtype([(f"sentinel2_l2a__B{band}", "<u2") for band in range(bands)])))
    return stream.getvalue()

def read(bodies):
    for data in bodies:
        slow = [Slow() for _ in range(30)]
        try:
            structured(data)
        except BaseException as error:
            print(repr(error))

gc.set_threshold(50)
sys.setswitchinterval(1e-5)
bodies = [body(bands) for bands in range(1, 241)]
threads = [threading.Thread(target=read, args=(bodies[start::8],)) for start in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_many_threads_read_headers_at_once():
    done = subprocess.run([sys.executable, "-c", many_threads], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == ""
