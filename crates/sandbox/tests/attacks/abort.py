# Breach: ending by a signal of one's own is anything but an end.
# End: any
import os

attempted()
os.abort()
