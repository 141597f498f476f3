# Breach: a raw system call makes a process or a thread.
import signal

attempt_call("fork", 57)
attempt_call("vfork", 58)
attempt_call("clone", 56, signal.SIGCHLD, 0, 0, 0, 0)
attempt_call("clone of a thread", 56, 0x50F00, 0, 0, 0, 0)
attempt_call("clone3", 435, bytes(88), 88)
