# Breach: it is not ended in time.
# End: timed out
import time

attempted()
while True:
    time.sleep(1000)
