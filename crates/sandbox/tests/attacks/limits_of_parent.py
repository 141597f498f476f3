# Breach: the limits of another process are read or set.
import os
import resource

for pid in (os.getppid(), 1):
    attempt("read", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE))
    attempt("set", lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    attempt("affinity", lambda: os.sched_setaffinity(pid, {0}))
