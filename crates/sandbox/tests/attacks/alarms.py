# Breach: timers and handlers of its own keep a program alive.
# End: timed out
import signal

signal.signal(signal.SIGALRM, lambda *_: signal.setitimer(signal.ITIMER_REAL, 0.001))
signal.signal(signal.SIGXCPU, lambda *_: None)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001)
attempted()
while True:
    signal.pause()
