# Breach: finalisers that never return keep a program alive.
# End: timed out
import atexit


class Stays:
    def __del__(self):
        while True:
            pass


@atexit.register
def wait():
    while True:
        pass


attempted()
keep = Stays()
raise SystemExit
