# Breach: the process becomes another program than the interpreter.
import os

attempted()
for path in ("/bin/sh", "/usr/bin/env", "/bin/busybox"):
    attempt(path, lambda: os.execve(path, [path, "-c", "echo BREACH"], {}))
