# Breach: the program leaves its session, or lives on as a daemon.
import os

attempt("setsid", os.setsid)
attempt("setpgid", lambda: os.setpgid(0, 0))
attempt("setpgrp", os.setpgrp)
attempt("daemon", lambda: os.fork() or os.setsid())
