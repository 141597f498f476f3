//! The file of a run's singular values.

use sharelora_report::stored_spectrum::{
    FILE, SCHEMA, StoredChange, StoredSite, StoredSpectrum, read, write,
};

fn stored() -> StoredSpectrum {
    StoredSpectrum {
        schema: SCHEMA,
        from: Some("abc".into()),
        sites: vec![StoredSite {
            layer: 3,
            projection: "q_proj".into(),
            shape: [4, 6],
            weight_norm: Some(10.0),
            values: vec![4.0, 3.0],
            change: Some(StoredChange {
                values: vec![0.1, 0.1, 0.0, 0.0],
                output_overlap: Some(0.25),
                input_overlap: None,
            }),
        }],
    }
}

/// What is written is read, to the bit, and the same bytes each time; measures are those of the values.
#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read(dir.path()).unwrap(), None);
    let spectrum = stored();
    write(dir.path(), &spectrum).unwrap();
    let bytes = std::fs::read(dir.path().join(FILE)).unwrap();
    assert_eq!(read(dir.path()).unwrap().as_ref(), Some(&spectrum));
    write(dir.path(), &spectrum).unwrap();
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), bytes);
    let site = &spectrum.sites[0];
    assert_eq!(
        (site.spectrum().norm, site.spectrum().relative_norm),
        (5.0, Some(0.5))
    );
    let rank = site.changed().unwrap().effective_rank.unwrap();
    assert!((rank - 2.0).abs() < 1e-12, "{rank}");
}

/// A file that was cut off, or is of something else or of a later version, is named, with what to do.
#[test]
fn a_damaged_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &stored()).unwrap();
    let path = dir.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let newer = StoredSpectrum {
        schema: 2,
        ..stored()
    };
    let later = zstd::encode_all(serde_json::to_vec(&newer).unwrap().as_slice(), 1).unwrap();
    let other = zstd::encode_all(&b"{\"schema\": 1}"[..], 1).unwrap();
    for (bytes, part) in [
        (whole[..whole.len() / 2].to_vec(), "incomplete frame"),
        (b"no zstd".to_vec(), "Unknown frame"),
        (other, "missing field `sites`"),
        (later, "schema 2 is newer than 1"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let message = read(dir.path()).unwrap_err().to_string();
        assert!(
            message.starts_with(&path.display().to_string()),
            "{message}"
        );
        assert!(message.contains(part), "{message}");
        assert!(message.contains("sharelora spectrum"), "{message}");
    }
}
