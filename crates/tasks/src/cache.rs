//! Token ids on disk, by content: what was tokenised once is not tokenised again.
//!
//! File `KEY.tokens`, all numbers little-endian: magic `SLTOK02\n`, the key's 64 digits, the number of
//! examples (u64), per example five u32: its number of ids, its prompt length, where its second segment begins,
//! its label (the bits of the f32), whether it was truncated (1 or 0); then all ids (u32), and the SHA-256 of
//! everything before. No segment and no label are `u32::MAX`. A file that differs in any byte, or is of an earlier
//! version, is made anew, never trusted.

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Encoded, Encoder, Error, Result, Task, hash};

const MAGIC: &[u8; 8] = b"SLTOK02\n";
const SUM: usize = 32;
/// Numbers that describe an example.
const FIELDS: usize = 5;
/// No segment, no label: as a length never reached, as an f32 a NaN.
const NONE: u32 = u32::MAX;

/// Name of the cached ids: a hash of the tokenizer, the task with version and variant, the rows
/// ([`crate::rows_hash`]) and the lengths.
pub fn key(
    encoder: &Encoder,
    task: &dyn Task,
    rows_hash: &str,
    max_source: usize,
    max_target: usize,
) -> String {
    let parts = [
        encoder.hash().to_owned(),
        format!("{} {} {}", task.name(), task.version(), task.variant()),
        rows_hash.to_owned(),
        format!("{max_source} {max_target}"),
    ];
    hash::of_lines(&parts)
}

/// The ids under `key` in `folder`, or else what `build` makes, which is then kept there.
///
/// # Errors
/// Those of `build`. A cache that cannot be read or written is a warning in the log, never an error.
pub fn encoded(
    folder: &Path,
    key: &str,
    build: impl FnOnce() -> Result<Vec<Encoded>>,
) -> Result<Vec<Encoded>> {
    let path = folder.join(format!("{key}.tokens"));
    match std::fs::read(&path) {
        Ok(bytes) => match unpack(&bytes, key) {
            Some(examples) => return Ok(examples),
            None => tracing::warn!(
                "{}: damaged, or of another version; made anew",
                path.display()
            ),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{}: {error}; made anew", path.display()),
    }
    let examples = build()?;
    if let Err(error) = store(folder, &path, &pack(&examples, key)) {
        tracing::warn!("token ids are not kept: {error}");
    }
    Ok(examples)
}

fn store(folder: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(folder))?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.persist(path)
        .map_err(|error| Error::io(path)(error.error))?;
    Ok(())
}

fn pack(examples: &[Encoded], key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(key.as_bytes());
    bytes.extend((examples.len() as u64).to_le_bytes());
    for example in examples {
        // Lengths of texts: far below 4 billion.
        let fields: [u32; FIELDS] = [
            example.ids.len() as u32,
            example.prompt_len as u32,
            example.segment.map_or(NONE, |segment| segment as u32),
            example.label.map_or(NONE, f32::to_bits),
            u32::from(example.truncated),
        ];
        bytes.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
    }
    for id in examples.iter().flat_map(|example| &example.ids) {
        bytes.extend(id.to_le_bytes());
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend(sum);
    bytes
}

/// `None` unless the whole file is what [`pack`] wrote for `key`.
fn unpack(bytes: &[u8], key: &str) -> Option<Vec<Encoded>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    if Sha256::digest(body).as_slice() != sum {
        return None;
    }
    let body = body.strip_prefix(MAGIC)?.strip_prefix(key.as_bytes())?;
    let (count, body) = body.split_first_chunk::<8>()?;
    let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
    let (fields, ids) = body.split_at_checked(count.checked_mul(4 * FIELDS)?)?;
    let mut ids = numbers(ids)?.into_iter();
    let mut examples = Vec::with_capacity(count);
    for &[len, prompt_len, segment, label, truncated] in numbers(fields)?.as_chunks().0 {
        let segment = (segment != NONE).then_some(segment as usize);
        let (len, prompt_len) = (len as usize, prompt_len as usize);
        if ids.len() < len || prompt_len.max(segment.unwrap_or(0)) > len || truncated > 1 {
            return None;
        }
        examples.push(Encoded {
            ids: ids.by_ref().take(len).collect(),
            prompt_len,
            segment,
            label: (label != NONE).then(|| f32::from_bits(label)),
            truncated: truncated == 1,
        });
    }
    (ids.len() == 0).then_some(examples)
}

fn numbers(bytes: &[u8]) -> Option<Vec<u32>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| {
        chunks
            .iter()
            .map(|chunk| u32::from_le_bytes(*chunk))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "00112233";

    fn examples() -> impl Strategy<Value = Vec<Encoded>> {
        let one = proptest::collection::vec(any::<u32>(), 0..6).prop_flat_map(|ids| {
            let segment = proptest::option::of(0..=ids.len());
            let label = proptest::option::of(any::<f32>());
            (0..=ids.len(), segment, label, any::<bool>()).prop_map(
                move |(prompt_len, segment, label, truncated)| Encoded {
                    ids: ids.clone(),
                    prompt_len,
                    segment,
                    label,
                    truncated,
                },
            )
        });
        proptest::collection::vec(one, 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// One damaged byte anywhere, or the file cut anywhere, is noticed; the whole file is read back.
        #[test]
        fn damage_is_always_noticed(examples in examples(), mask in 1u8..) {
            let bytes = pack(&examples, KEY);
            prop_assert_eq!(unpack(&bytes, KEY), Some(examples));
            prop_assert_eq!(unpack(&bytes, "00112234"), None);
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= mask;
                prop_assert_eq!(unpack(&damaged, KEY), None, "byte {}", at);
                prop_assert_eq!(unpack(&bytes[..at], KEY), None, "cut at {}", at);
            }
        }

        /// Foreign bytes under a right checksum: lengths that lie are no panic and no huge allocation.
        #[test]
        fn lying_lengths_are_noticed(tail in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = [MAGIC.as_slice(), KEY.as_bytes(), &tail].concat();
            let sum = Sha256::digest(&bytes);
            bytes.extend(sum);
            if let Some(examples) = unpack(&bytes, KEY) {
                prop_assert_eq!(pack(&examples, KEY), bytes);
            }
        }
    }

    #[test]
    fn damaged_file_is_made_anew_and_whole_file_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("made/on/demand");
        let wanted = vec![Encoded {
            ids: vec![1, 2, 3],
            prompt_len: 1,
            ..Encoded::default()
        }];
        let build = || Ok(wanted.clone());
        let never = || -> Result<Vec<Encoded>> { panic!("the cache was not used") };
        assert_eq!(encoded(&inner, KEY, build).unwrap(), wanted);
        assert_eq!(encoded(&inner, KEY, never).unwrap(), wanted);
        let path = inner.join(format!("{KEY}.tokens"));
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(encoded(&inner, KEY, build).unwrap(), wanted);
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let mut earlier = [b"SLTOK01\n", &bytes[8..bytes.len() - SUM]].concat();
        let sum = Sha256::digest(&earlier);
        earlier.extend(sum);
        std::fs::write(&path, &earlier).unwrap();
        assert_eq!(encoded(&inner, KEY, build).unwrap(), wanted);
        assert_eq!(
            std::fs::read_dir(&inner).unwrap().count(),
            1,
            "no temporary file stays"
        );
    }

    #[test]
    fn key_covers_everything_that_decides_the_ids() {
        let tokenizer = crate::train_pocket_tokenizer(["a b"], 257).unwrap();
        let encoder = Encoder::from_tokenizer(&tokenizer, None, 0).unwrap();
        let other = Encoder::from_tokenizer(&tokenizer, None, 1).unwrap();
        let task = |variant: &str| {
            crate::task(
                "gsm8k",
                &crate::TaskOptions {
                    variant: Some(variant.into()),
                    ..Default::default()
                },
            )
            .unwrap()
        };
        let (zero, cot) = (task("zero_shot"), task("cot"));
        let keys: std::collections::HashSet<String> = [
            key(&encoder, zero.as_ref(), "rows", 1, 2),
            key(&other, zero.as_ref(), "rows", 1, 2),
            key(&encoder, cot.as_ref(), "rows", 1, 2),
            key(&encoder, zero.as_ref(), "other rows", 1, 2),
            key(&encoder, zero.as_ref(), "rows", 2, 1),
        ]
        .into();
        assert_eq!(keys.len(), 5);
    }
}
