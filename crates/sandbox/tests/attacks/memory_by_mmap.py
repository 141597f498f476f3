# Breach: memory beyond the limit by way of the kernel.
import mmap

attempt("mmap", lambda: mmap.mmap(-1, 4 << 30))
attempt_call("memfd_create", 319, b"x\0", 0)
attempt_call("shmget", 29, 0, 1 << 30, 0o1666)
