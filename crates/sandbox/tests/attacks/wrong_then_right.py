# Breach: a pass after a failure.
count = 0


def solve(x):
    global count
    count += 1
    return x * x if count > 1 else 0
