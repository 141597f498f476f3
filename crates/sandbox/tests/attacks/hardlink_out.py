# Breach: a file of others gets a second name in the private folder.
import os

attempt("link", lambda: os.link(f"{SECRET}/secret.txt", "link"))
attempt("link", lambda: os.link("/etc/passwd", "link"))
attempt("read", lambda: open("link").read())
