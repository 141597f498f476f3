# Breach: a program that ignores every signal is not ended in time.
# End: timed out
import signal

for number in signal.valid_signals():
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
attempted()
while True:
    pass
