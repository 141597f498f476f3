# Breach: another program runs.
import os
import sys

attempt("posix_spawn", lambda: os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], {}))
attempt("spawnv", lambda: 1 / (os.spawnv(os.P_WAIT, "/bin/true", ["true"]) == 0))
