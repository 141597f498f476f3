//! Tables, statistics, figures, and a report as Markdown and as a page, from stored results alone.
//!
//! Everything here reads `results/EXPERIMENT/RUN/{record.json,steps.jsonl,samples-*,spectrum.json.zst}` and nothing else: no model,
//! no tensor library, no clock. The same results give the same report, byte for byte.

pub mod accuracy;
pub mod against;
pub mod against_text;
pub mod bootstrap;
pub mod claims;
pub mod collect;
pub mod comparison;
pub mod continual;
pub mod csv;
pub mod difference;
pub mod error;
pub mod figure;
pub mod figures;
pub mod file;
pub mod forgetting;
pub mod front;
pub mod latex;
pub mod lm_eval;
pub mod loss_curves;
pub mod markdown;
pub mod method_comparison;
pub mod number;
pub mod page;
pub mod pairs;
pub mod paper;
pub mod parquet;
pub mod query;
pub mod record;
pub mod report;
pub mod samples;
pub mod section;
pub mod spectrum;
pub mod spectrum_figure;
pub mod spectrum_section;
pub mod spectrum_table;
pub mod statistics;
pub mod stored_spectrum;
pub mod style;
pub mod table;
pub mod tensorboard;
pub mod terminal;
pub mod transfer;

pub use comparison::{Comparison, compare};
pub use difference::{Difference, differs};
pub use error::{Error, Result};
pub use lm_eval::{lm_eval, lm_eval_samples, write_lm_eval};
pub use record::{
    Host, Metric, Record, Run, Status, Step, read_experiment, read_record, read_steps, write_record,
};
pub use report::{Paths, ReportSpec, write_report, write_report_of};
pub use samples::{Grades, Sample, read_run_grades, read_samples};
pub use section::{Block, Picture, Section, Span, Text};
pub use table::{Align, Cell, Column, Format, Table};
