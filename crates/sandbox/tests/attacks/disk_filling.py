# Breach: more is written than the folder's size. (16 MiB.)
total = 0
try:
    for number in range(200):
        with open(f"file{number}", "wb") as file:
            total += file.write(bytes(1 << 20))
except OSError:
    pass
if total > 17 << 20:
    breach(f"{total} bytes")
