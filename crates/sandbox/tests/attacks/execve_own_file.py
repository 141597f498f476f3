# Breach: a program made by the program is executed by the kernel.
import os

try:
    with open("own", "w") as file:
        file.write("#!/bin/sh\necho BREACH script\n")
except OSError:
    pass
attempt("chmod", lambda: os.chmod("own", 0o755))
attempt("execve", lambda: os.execve("./own", ["own"], {}))
