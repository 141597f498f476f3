# Breach: anything but an end of the process when its stack runs out.
# End: any
import sys

attempted()
sys.setrecursionlimit(1 << 30)


def deeper(x):
    return [*map(deeper, [x])]


deeper(1)
