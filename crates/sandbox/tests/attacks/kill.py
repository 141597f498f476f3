# Breach: a signal reaches anyone, or it is learned that a process is there to be signalled.
import os
import signal

for target in (os.getppid(), 1, -1, 0, -os.getppid(), os.getpid()):
    for number in (0, signal.SIGKILL, signal.SIGSTOP):
        attempt(f"kill {target}", lambda: os.kill(target, number))
attempt("killpg", lambda: os.killpg(0, signal.SIGKILL))
attempt_call("tkill", 200, os.getppid(), signal.SIGKILL)
attempt_call("tgkill", 234, os.getppid(), os.getppid(), signal.SIGKILL)
attempt_call("rt_sigqueueinfo", 129, os.getppid(), signal.SIGKILL, bytes(128))
