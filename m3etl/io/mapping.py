"""Files mapped into memory for reading, within a budget: beyond it, mapping and unmapping costs more than it spares."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_failed = ctypes.c_void_p(-1).value


class MappingBudget:
    """Maps files until they would fill half of the memory or be very many; nbytes and files are what is mapped now."""

    most_files = 2048

    def __init__(self) -> None:
        self.limit = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
        self.nbytes = 0
        self.files = 0
        self._lock = threading.RLock()  # collecting garbage inside may unmap

    def map(self, descriptor: int, owner: Any) -> int:
        """Address of the whole file for as long as `owner` lives; 0 where it is not mapped."""
        size = os.fstat(descriptor).st_size
        with self._lock:
            if size == 0 or self.nbytes + size > self.limit or self.files >= self.most_files:
                return 0
            address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
            if address == _failed:
                return 0
            self.nbytes += size
            self.files += 1
        weakref.finalize(owner, self._unmap, address, size).atexit = False
        return int(address)

    def _unmap(self, address: int, size: int) -> None:
        _libc.munmap(address, size)
        with self._lock:
            self.nbytes -= size
            self.files -= 1
