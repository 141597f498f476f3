//! Content hashes, all of them SHA-256 in lowercase hexadecimal.

use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Hash of one byte string.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Hash of a list: every item as one line of JSON. The items' field order is part of the hash.
pub fn of_lines<T: Serialize>(items: &[T]) -> String {
    let mut hasher = Sha256::new();
    for item in items {
        // Rows and requests hold strings, numbers and lists only, which always serialise.
        hasher.update(serde_json::to_vec(item).unwrap_or_default());
        hasher.update(b"\n");
    }
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
