# Breach: a result of another run, which all users may read, is read.
import os

attempt("read", lambda: open(f"{SECRET}/secret.txt").read())
attempt("list", lambda: os.listdir(SECRET))
attempt("mmap", lambda: os.open(f"{SECRET}/secret.txt", os.O_RDWR))
attempt("O_PATH", lambda: os.read(os.open(f"{SECRET}/secret.txt", os.O_PATH), 1))
attempt("by cwd", lambda: os.chdir(SECRET) or open("secret.txt").read())
attempt("by relative path", lambda: open("../" * 20 + f"{SECRET}/secret.txt").read())
