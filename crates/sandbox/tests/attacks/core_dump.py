# Breach: the kernel writes the process's memory to a file.
# End: any
import ctypes
import os
import resource

attempted()
attempt("limit", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20)))
ctypes.string_at(0)
