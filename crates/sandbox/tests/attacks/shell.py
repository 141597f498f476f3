# Breach: a shell runs.
import os

if os.system("true") == 0:
    breach("system")
attempt("popen", lambda: os.popen("echo 1").read() or 1 / 0)
