# Breach: a page is fetched.
import urllib.request

attempt("http", lambda: urllib.request.urlopen("http://127.0.0.1:80/", timeout=1).read(1))
attempt("https", lambda: urllib.request.urlopen("https://example.org/", timeout=1).read(1))
attempt("file", lambda: urllib.request.urlopen("file:///etc/passwd", timeout=1).read(1))
