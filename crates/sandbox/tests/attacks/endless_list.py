# Breach: a list that never ends is sent without end.
class Endless(list):
    def __iter__(self):
        while True:
            yield 9

    def __len__(self):
        return 1 << 62


def solve(x):
    return Endless([8])
