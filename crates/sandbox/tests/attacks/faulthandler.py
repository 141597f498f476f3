# Breach: the watchdog thread runs, or a traceback is written through a signal handler into another's file.
# End: any
import faulthandler

attempted()
attempt("watchdog", lambda: faulthandler.dump_traceback_later(0.01, exit=True, file=1))
faulthandler.enable(file=1)
faulthandler._sigsegv()
