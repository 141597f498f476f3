# Breach: a small answer in memory is an endless one in transit.
def solve(x):
    value = [9]
    for _ in range(90):
        value = [value, value]
    return value
