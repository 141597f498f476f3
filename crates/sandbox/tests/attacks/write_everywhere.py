# Breach: bytes in some descriptor are taken for a verdict.
import os


def solve(x):
    for fd in range(64):
        try:
            os.write(fd, b"P")
        except OSError:
            pass
    return x


if __name__ != "__main__":
    solve(1)
