# Breach: something is written beyond the private folder. (The test looks at SECRET, which all users may write to.)
import os

for folder in ("/", "/var/tmp", "/dev/shm", "/root", SECRET, "../..", os.path.dirname(os.__file__)):
    path = f"{folder}/sandbox_was_here"
    if os.path.abspath(folder) == "/" and os.getcwd() == "/tmp":
        # Under bubblewrap that is a file system of the sandbox's own.
        continue
    attempt(path, lambda: open(path, "w").write("x"))
    attempt(path, lambda: os.mkdir(path))
    attempt(path, lambda: os.mkfifo(path))
attempt("append", lambda: open(f"{SECRET}/secret.txt", "a").write("x"))
attempt("interpreter", lambda: open(os.__file__, "a").write("x"))
