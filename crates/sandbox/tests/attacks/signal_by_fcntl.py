# Breach: the kernel is made to send a signal on the program's behalf.
import fcntl
import os

reader, writer = os.pipe()
attempt("F_SETOWN", lambda: fcntl.fcntl(reader, fcntl.F_SETOWN, os.getppid()))
attempt("F_SETSIG", lambda: fcntl.fcntl(reader, 10, 9))
attempt("F_NOTIFY", lambda: fcntl.fcntl(reader, 1026, 1))
