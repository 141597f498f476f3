# Breach: an exit code is taken for a verdict.
import sys

attempted()
sys.exit(0)
