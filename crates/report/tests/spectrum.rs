//! Spectra as tables, Parquet and figures.

use std::fs::File;

use polars::prelude::*;
use sharelora_report::figure::{Drawing, write_png, write_svg};
use sharelora_report::spectrum::{AdapterSpectrum, Angles, Between, SiteSpectrum, Spectra};
use sharelora_report::{spectrum_figure, spectrum_table, terminal};

fn site(layer: usize, projection: &str, values: &[f64]) -> SiteSpectrum {
    let squares: Vec<f64> = values.iter().map(|v| v * v).collect();
    let all: f64 = squares.iter().sum();
    let share = |k: usize| (all > 0.0).then(|| squares[..k].iter().sum::<f64>() / all);
    SiteSpectrum {
        layer,
        projection: projection.into(),
        shape: [8, 8],
        values: values.to_vec(),
        effective_rank: (all > 0.0).then_some(1.5),
        stable_rank: (all > 0.0).then(|| all / squares[0]),
        energy: (1..=values.len()).map(share).collect(),
        norm: all.sqrt(),
        relative_norm: (layer == 0).then(|| all.sqrt() / 10.0),
    }
}

/// LoRA with two seeds and ShareA, two layers; the second layer of ShareA's `v_proj` is an update of zeros.
fn spectra() -> Spectra {
    let adapter = |run: &str, method: &str, last: &[f64]| AdapterSpectrum {
        run: run.into(),
        method: method.into(),
        setting: method.into(),
        sites: vec![
            site(0, "q_proj", &[2.0, 1.0]),
            site(0, "v_proj", &[3.0, 0.5]),
            site(1, "q_proj", &[1.0, 1.0]),
            site(1, "v_proj", last),
        ],
    };
    let pair = |between, first: (&str, usize), second: (&str, usize), angles: &[f64]| Angles {
        between,
        first: (first.0.into(), first.1),
        second: (second.0.into(), second.1),
        projection: "q_proj".into(),
        columns: angles.to_vec(),
        rows: vec![0.0; angles.len()],
        column_overlap: (!angles.is_empty()).then_some(0.25),
        row_overlap: (!angles.is_empty()).then_some(1.0),
    };
    Spectra {
        adapters: vec![
            adapter("lora-seed0", "lora", &[1.0, 0.0]),
            adapter("lora-seed1", "lora", &[3.0, 0.0]),
            adapter("share_a-seed0", "share_a", &[0.0, 0.0]),
        ],
        angles: vec![
            pair(
                Between::Layers,
                ("lora-seed0", 0),
                ("lora-seed0", 1),
                &[0.5, 1.0],
            ),
            pair(
                Between::Layers,
                ("share_a-seed0", 0),
                ("share_a-seed0", 1),
                &[0.25, 1.5],
            ),
            pair(
                Between::Runs,
                ("lora-seed0", 0),
                ("lora-seed1", 0),
                &[0.1, 0.2],
            ),
            pair(Between::Runs, ("lora-seed0", 1), ("lora-seed1", 1), &[]),
        ],
    }
}

/// What a person reads: means over layers; nothing is shown where nothing is known, and an update of zeros has no rank.
#[test]
fn tables_are_readable() {
    let table = spectrum_table::summaries(&spectra(), false, &[1, 4]);
    insta::assert_snapshot!(terminal::render(&table, false), @"");
    let table = spectrum_table::summaries(&spectra(), true, &[1]);
    assert_eq!(table.rows.len(), 12);
    assert_eq!(table.rows[11][4].text, "-");
    let table = spectrum_table::angles(&spectra());
    insta::assert_snapshot!(terminal::render(&table, false), @"");
}

/// Long tables for other programs: every value, every site and every angle has its row.
#[test]
fn parquet_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    spectra().write_parquet(folder.path()).unwrap();
    let read = |name: &str| {
        let file = File::open(folder.path().join(name)).unwrap();
        ParquetReader::new(file).finish().unwrap()
    };
    assert_eq!(read("values.parquet").height(), 24);
    assert_eq!(read("angles.parquet").height(), 12);
    let sites = read("sites.parquet");
    assert_eq!(sites.height(), 12);
    assert_eq!(
        sites.column("norm").unwrap().f64().unwrap().get(0),
        Some(5f64.sqrt())
    );
    assert_eq!(sites.column("relative_norm").unwrap().null_count(), 6);
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let before = bytes("values.parquet");
    spectra().write_parquet(folder.path()).unwrap();
    assert_eq!(before, bytes("values.parquet"));
}

/// Every figure is drawn at its size, the same bytes each time, also where a value is missing; nothing is drawn of nothing.
#[test]
fn figures_are_drawn() {
    #[track_caller]
    fn check(name: &str, figure: &impl Drawing, texts: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        let (svg, png) = (folder.path().join("a.svg"), folder.path().join("a.png"));
        let mut last: Option<(String, Vec<u8>)> = None;
        for _ in 0..2 {
            write_svg(&svg, figure).unwrap();
            write_png(&png, figure).unwrap();
            let now = (
                std::fs::read_to_string(&svg).unwrap(),
                std::fs::read(&png).unwrap(),
            );
            assert!(last.is_none_or(|last| last == now), "{name}");
            last = Some(now);
        }
        let (svg, bytes) = last.unwrap();
        for text in texts {
            assert!(svg.contains(text), "{name} has no {text}");
        }
        assert!(!svg.contains("NaN"), "{name}");
        let reader = png::Decoder::new(bytes.as_slice()).read_info().unwrap();
        assert_eq!(reader.info().size(), figure.size(), "{name}");
    }
    let spectra = spectra();
    let index = spectrum_figure::by_index("Title", &spectra).unwrap();
    assert_eq!(index.panels.len(), 2);
    // The mean over the layers and LoRA's two seeds, and its extremes over the layers.
    let mark = &index.panels[1].marks[0];
    assert_eq!((mark.at.1, mark.bar), (2.5, Some((2.0, 3.0))));
    check("values", &index, &["q_proj", "ShareA", "Singular value"]);
    let layers = spectrum_figure::by_layer("Title", &spectra).unwrap();
    assert_eq!((layers.columns, layers.panels.len()), (2, 4));
    check("layers", &layers, &["v_proj, LoRA", "Layer"]);
    let heat = spectrum_figure::heat("Title", &spectra).unwrap();
    assert_eq!(heat.panels[0].rows, [[2.0, 1.0], [1.0, 1.0]]);
    check("heat", &heat, &["q_proj, ShareA", "Index"]);
    let overlap = spectrum_figure::overlap("Title", &spectra).unwrap();
    assert_eq!(
        (overlap.panels[0].rows[0][1], overlap.panels[0].rows[1][0]),
        (0.5, 1.0)
    );
    check("overlap", &overlap, &["q_proj, LoRA"]);
    assert!(spectrum_figure::by_index("Title", &Spectra::default()).is_none());
    assert!(spectrum_figure::overlap("Title", &Spectra::default()).is_none());
}
