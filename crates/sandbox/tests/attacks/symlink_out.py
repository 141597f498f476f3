# Breach: a link in the private folder leads out of it.
import os

attempt("symlink", lambda: os.symlink("/etc/passwd", "link"))
attempt("read", lambda: open("link").read())
attempt("symlink of a folder", lambda: os.symlink(SECRET, "folder"))
attempt("read", lambda: open("folder/secret.txt").read())
