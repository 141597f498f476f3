# Breach: output without end is kept.
# End: too much output
import os

attempted()
while True:
    os.write(2, b"passed " * 10000)
