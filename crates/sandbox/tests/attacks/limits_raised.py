# Breach: the process gets more than it was given.
import os
import resource

for name in ("AS", "CPU", "FSIZE", "NOFILE", "CORE", "STACK"):
    kind = getattr(resource, f"RLIMIT_{name}")
    soft, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        breach(f"{name} has no limit")
    attempt(name, lambda: resource.setrlimit(kind, (hard + 1, hard + 1)))
    attempt(name, lambda: resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
attempt("nice", lambda: os.nice(-20))
attempt("scheduler", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99)))
attempt("affinity", lambda: os.sched_setaffinity(0, {0, 1}))
attempt_call("ioprio_set", 251, 1, 0, 1 << 13)
attempt_call("mlockall", 151, 3)
