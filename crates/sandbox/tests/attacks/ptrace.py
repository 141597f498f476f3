# Breach: the memory of another process is read or written, or its descriptors are taken.
import os

for pid in (os.getppid(), os.getpid() + 1, os.getpid() - 1):
    attempt_call("PTRACE_ATTACH", 101, 16, pid, 0, 0)
    attempt_call("PTRACE_SEIZE", 101, 0x4206, pid, 0, 0)
    attempt_call("process_vm_readv", 310, pid, bytes(16), 1, bytes(16), 1, 0)
    attempt_call("process_vm_writev", 311, pid, bytes(16), 1, bytes(16), 1, 0)
    attempt_call("pidfd_open", 434, pid, 0)
    attempt_call("kcmp", 312, pid, os.getpid(), 0, 0, 0)
attempt_call("pidfd_getfd", 438, 3, 1, 0)
attempt_call("PTRACE_TRACEME", 101, 0, 0, 0, 0)
