//! Scores a system's output: `cargo run --release -p sharelora-metrics --example e2e -- SYSTEM REFERENCES [FOLDER]`.
//! METEOR is among them where FOLDER, that of METEOR's program, is given.

use std::error::Error;
use std::path::PathBuf;

use sharelora_metrics::e2e::meteor::{self, Java};
use sharelora_metrics::e2e::{Corpus, scores};

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [system, references, folder @ ..] = &paths[..] else {
        return Err("SYSTEM and REFERENCES are needed".into());
    };
    let corpus = Corpus::read(system, references)?;
    let found = scores(&corpus);
    println!("BLEU: {:.4}", found.bleu);
    println!("NIST: {:.4}", found.nist);
    if let [folder] = folder {
        let java = Java {
            command: "java".into(),
            folder: folder.clone(),
            limit: std::time::Duration::from_secs(1800),
        };
        match meteor::score(&corpus, &java) {
            Ok(meteor) => println!("METEOR: {:.4}", meteor.score),
            Err(error) => println!("METEOR: not measured: {error}"),
        }
    }
    println!("ROUGE_L: {:.4}", found.rouge_l);
    println!("CIDEr: {:.4}", found.cider);
    Ok(())
}
