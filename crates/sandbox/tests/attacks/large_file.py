# Breach: one file is larger than its limit. (1 MiB.)
import os
import signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
total = file = 0
try:
    file = os.open("file", os.O_RDWR | os.O_CREAT)
    for _ in range(100):
        total += os.write(file, bytes(100_000))
except OSError:
    pass
if total > 1 << 20:
    breach(f"{total} bytes")
attempt("sparse", lambda: os.ftruncate(file, 1 << 40))
attempt("sparse", lambda: os.pwrite(file, b"x", 1 << 40))
attempt("fallocate", lambda: os.posix_fallocate(file, 0, 1 << 30))
