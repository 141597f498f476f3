# Breach: a file is opened without a path.
attempt_call("name_to_handle_at", 303, -100, b"/etc/passwd\0", bytes(128), bytes(8), 0)
attempt_call("open_by_handle_at", 304, -100, bytes(128), 0)
attempt_call("openat2", 437, -100, b"/etc/passwd\0", bytes(24), 24)
