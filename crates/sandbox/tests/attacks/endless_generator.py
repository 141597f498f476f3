# Breach: an answer without end is waited for, or passes.
def solve(x):
    def endless():
        while True:
            yield x

    return endless()
