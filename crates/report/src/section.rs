//! A part of a report as data, apart from how it is written: [`crate::markdown::section`] writes it for `report.md`,
//! [`crate::page`] for the page. What is to stand in both is one more [`Section`] in `sections` of [`crate::report`].

use crate::figure::Figure;
use crate::table::Table;

/// A heading and what stands under it.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The heading; no two sections of a report have the same.
    pub title: String,
    /// Its parts, in order.
    pub blocks: Vec<Block>,
}

/// One part of a section.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A paragraph.
    Text(Text),
    /// A list.
    List(Vec<Text>),
    /// A table with its notes; the section's heading is its title.
    Table(Table),
    /// A figure.
    Figure(Picture),
    /// Commands for a shell.
    Commands(String),
}

/// A figure, its files' name and its words.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// `NAME.svg` and `NAME.png` are its files.
    pub name: String,
    /// What it shows, for those who do not see it.
    pub alt: String,
    /// How to read it.
    pub caption: Text,
    /// The figure.
    pub figure: Figure,
}

/// A piece of a [`Text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// Words.
    Plain(String),
    /// A name or value of a program.
    Code(String),
    /// A file of the report: its name is also the link.
    File(String),
}

/// Words of a paragraph; nothing in them is markup.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text(pub Vec<Span>);

impl<T: Into<String>> From<T> for Text {
    fn from(words: T) -> Self {
        Self(vec![Span::Plain(words.into())])
    }
}

impl Text {
    /// A name or value of a program.
    pub fn code(text: impl Into<String>) -> Self {
        Self(vec![Span::Code(text.into())])
    }

    /// A link to a file of the report.
    pub fn file(name: impl Into<String>) -> Self {
        Self(vec![Span::File(name.into())])
    }

    /// This text with another behind it.
    #[must_use]
    pub fn then(mut self, other: impl Into<Text>) -> Self {
        self.0.extend(other.into().0);
        self
    }

    /// Texts with `separator` between them.
    pub fn join(texts: impl IntoIterator<Item = Text>, separator: &str) -> Self {
        let mut joined = Self::default();
        for (index, text) in texts.into_iter().enumerate() {
            if index > 0 {
                joined = joined.then(separator);
            }
            joined = joined.then(text);
        }
        joined
    }
}
