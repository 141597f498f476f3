# Breach: an exit code is taken for a verdict.
import os

attempted()
os._exit(0)
