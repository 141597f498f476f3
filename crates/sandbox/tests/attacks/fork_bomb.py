# Breach: a second process exists.
import os

for _ in range(1000):
    attempt("fork", os.fork)
