//! `report.html`: the whole report as one file that needs no network, for a screen of any size, for paper, for the keyboard.
//!
//! The sections are those of `report.md`. Before them stand the [`summary`] in words; behind them the sample [`answers`] side by
//! side, and one section a run, which the page's script (`page.js`) fills from the embedded JSON ([`data`]) when it is opened,
//! so that a thousand runs cost little. The file's size is bounded by what [`data`], [`answers`] and the figures keep:
//! 60,000 points of curves in the JSON and as many in the figures, 400,000 bytes of answers, and some 1,000 bytes a run.
//!
//! Texts from results may be hostile: they are escaped as HTML ([`html`]), as JSON without any `<`, and the script puts them into the page
//! as text alone. A content security policy allows this file's own script and style, by a nonce that is the hash of the data,
//! and no request to anywhere.

pub mod answers;
pub mod data;
mod figure;
mod html;
mod look;
pub mod summary;

use std::fmt::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::comparison::Comparison;
use crate::error::{Error, Result};
use crate::record::{Record, Run};
use crate::report::ReportSpec;
use crate::section::{Section, Text};
use html::{anchor, escape, list, paragraphs};
use look::Looks;

/// What a page is made of.
pub struct Page<'a> {
    /// Title, description, caveat, command.
    pub spec: &'a ReportSpec,
    /// The runs, with the folders of their samples.
    pub runs: &'a [Run],
    /// Runs without a record.
    pub unfinished: &'a [String],
    /// Their comparison.
    pub comparison: &'a Comparison,
    /// The sections of the report.
    pub sections: &'a [Section],
}

/// The page's HTML.
///
/// # Errors
/// A samples file cannot be read, or a figure not drawn.
pub fn render(page: &Page) -> Result<String> {
    let looks = Looks::of(page.runs);
    let answers = answers::choose(page.runs)?;
    body(page, &looks, &answers).map_err(|message| Error::Figure {
        path: Path::new("report.html").to_owned(),
        message,
    })
}

/// JSON inside a `script` element: without `<` no text can end it or open a comment.
fn script_json(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

fn body(
    page: &Page,
    looks: &Looks,
    answers: &[answers::Answers],
) -> std::result::Result<String, String> {
    let title = escape(&page.spec.title);
    let mut points = Vec::new();
    let mut main = summary_section(page);
    for section in page.sections {
        main += &html::section(section, looks, &mut points)?;
    }
    main += &answers_section(answers);
    main += &runs_section(page, looks);

    let mut data = data::json(page, looks, answers);
    if let Some(fields) = data.as_object_mut() {
        fields.insert("figures".into(), points.into());
    }
    let data = script_json(&data);
    // Nothing in the data can know the hash of all of it.
    let nonce: String = Sha256::digest(&data)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
    let mut titles = vec!["Summary"];
    titles.extend(page.sections.iter().map(|section| section.title.as_str()));
    if !answers.is_empty() {
        titles.push("Answers");
    }
    titles.push(EACH_RUN);
    let links = titles.iter().map(|title| {
        format!(
            "<li><a href=\"#{}\">{}</a></li>",
            anchor(title),
            escape(title)
        )
    });
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'nonce-{nonce}'; \
         script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'\">\n\
         <title>{title}</title>\n<style nonce=\"{nonce}\">\n{style}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#main\">Skip to the content</a>\n{symbols}\
         <header>\n<h1>{title}</h1>\n{description}<nav aria-label=\"Sections\">\n<ul>{links}</ul>\n</nav>\n</header>\n\
         <main id=\"main\" tabindex=\"-1\">\n{main}</main>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <script nonce=\"{nonce}\">\n{script}</script>\n</body>\n</html>\n",
        style = include_str!("page.css"),
        script = include_str!("page.js"),
        symbols = looks.symbols()?,
        description = paragraphs(&page.spec.description),
        links = links.collect::<String>(),
    ))
}

fn summary_section(page: &Page) -> String {
    let records: Vec<&Record> = page.runs.iter().map(|run| &run.record).collect();
    let summary = summary::summary(page.comparison, &records, page.unfinished);
    let mut html = String::from(
        "<section id=\"summary\" aria-labelledby=\"summary-title\">\n<h2 id=\"summary-title\">Summary</h2>\n",
    );
    if !summary.best.is_empty() {
        html += "<h3>Best</h3>\n";
        html += &list(&summary.best, "words");
    }
    if !summary.against.is_empty() {
        html += "<h3>What is trained, and what it costs</h3>\n";
        html += &list(&summary.against, "words");
    }
    html += "<h3>What was not measured</h3>\n";
    html += &list(&summary.missing, "words");
    if let Some(caveat) = &page.spec.caveat {
        let _ = writeln!(
            html,
            "<p class=\"note\"><b>Note.</b> {}</p>",
            escape(caveat.trim())
        );
    }
    html + "<noscript><p class=\"note\">Without JavaScript the tables do not sort, and the sample answers and the sections of \
            the runs stay empty.</p></noscript>\n</section>\n"
}

fn answers_section(answers: &[answers::Answers]) -> String {
    if answers.is_empty() {
        return String::new();
    }
    let words: Vec<Text> = answers
        .iter()
        .map(|answers| answers.words().into())
        .collect();
    format!(
        "<section id=\"answers\" aria-labelledby=\"answers-title\">\n<h2 id=\"answers-title\">Answers</h2>\n\
         <p>Of every method one run's answers to the same question, with their grades. Shown are:</p>\n{}\
         <p>Texts of more than {} characters are cut. All answers are in the samples files of the runs.</p>\n\
         <div id=\"answers-viewer\"></div>\n</section>\n",
        list(&words, "facts"),
        crate::number::thousands(answers::MOST_CHARACTERS as u64),
    )
}

/// The name of a run's section: no other run has it, and it stays when runs are added.
fn run_anchor(record: &Record) -> String {
    let hash: String = record.hash.chars().take(8).collect();
    format!("{}-{hash}", record.run.replace(char::is_whitespace, "-"))
}

/// Heading of the sections of the runs.
const EACH_RUN: &str = "Each run";

/// One closed section a run; the script fills it when it is opened.
fn runs_section(page: &Page, looks: &Looks) -> String {
    let id = anchor(EACH_RUN);
    let mut html = format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{EACH_RUN}</h2>\n\
         <p class=\"screen\">Opened, a run shows its scores, settings, curves, answers, where it comes from, and the command that \
         makes it again. On paper stands what is open.</p>\n<div id=\"runs-list\">\n"
    );
    for record in page.runs.iter().map(|run| &run.record) {
        let mark = looks
            .place(&record.method)
            .map(look::mark)
            .unwrap_or_default();
        let mut brief = record.status.name().to_owned();
        if let Some(loss) = record.held_out_loss.filter(|loss| loss.is_finite()) {
            let _ = write!(brief, ", held-out loss {}", crate::number::fixed(loss, 4));
        }
        let _ = writeln!(
            html,
            "<details class=\"run\" id=\"run-{}\"><summary>{mark}<b>{}</b> <span>{}</span></summary></details>",
            html::attribute(&run_anchor(record)),
            escape(&record.run),
            escape(&brief)
        );
    }
    html + "</div>\n</section>\n"
}
