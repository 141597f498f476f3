# Breach: a program that closes its output is taken for ended, or for well.
# End: timed out
import os
import time

attempted()
os.closerange(0, 64)
time.sleep(1000)
