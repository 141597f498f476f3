# Breach: a file of others is changed, moved or removed. (The test looks.)
import os

path = f"{SECRET}/secret.txt"
attempt("unlink", lambda: os.unlink(path))
attempt("rename", lambda: os.rename(path, f"{SECRET}/moved"))
attempt("move in", lambda: os.rename(path, "mine"))
attempt("rmdir", lambda: os.rmdir(f"{SECRET}/folder"))
attempt("truncate", lambda: os.truncate(path, 0))
attempt("chmod", lambda: os.chmod(path, 0o777))
attempt("chmod of a folder", lambda: os.chmod(SECRET, 0o777))
attempt("chown", lambda: os.chown(path, os.getuid(), os.getgid()))
attempt("utime", lambda: os.utime(path))
attempt("setxattr", lambda: os.setxattr(path, "user.x", b"x"))
attempt("replace", lambda: (open("new", "w").close(), os.replace("new", path)))
