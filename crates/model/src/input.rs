use std::sync::Arc;

use sharelora_kernels::attention::Span;

/// The token ids of a batch, its sequences laid end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub ids: Vec<u32>,
    /// Where each sequence is, in order. Packed, they follow one another without gaps; what is between them is padding.
    pub spans: Arc<[Span]>,
    /// The spans, and the padding behind each as a sequence of its own: attention covers every row.
    attended: Arc<[Span]>,
    /// Where the second text of each sequence begins, counted from its start; BERT embeds it as another type.
    seconds: Vec<usize>,
}

impl Input {
    /// Sequences end to end, without padding.
    pub fn packed(rows: &[&[u32]]) -> Self {
        Self::of(rows, |_| None)
    }

    /// Every sequence padded on the right with `pad` to the longest. No token attends to padding, and nothing reads
    /// what is computed for it.
    pub fn padded(rows: &[&[u32]], pad: u32) -> Self {
        let length = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        Self::of(rows, |row| Some((length - row.len(), pad)))
    }

    fn of(rows: &[&[u32]], padding: impl Fn(&[u32]) -> Option<(usize, u32)>) -> Self {
        let mut ids = Vec::new();
        let mut spans = Vec::with_capacity(rows.len());
        let mut attended = Vec::with_capacity(rows.len());
        for row in rows {
            let span = Span {
                start: ids.len(),
                len: row.len(),
            };
            ids.extend_from_slice(row);
            spans.push(span);
            attended.push(span);
            if let Some((len, pad)) = padding(row).filter(|(len, _)| *len > 0) {
                attended.push(Span {
                    start: ids.len(),
                    len,
                });
                ids.extend(std::iter::repeat_n(pad, len));
            }
        }
        Input {
            ids,
            spans: spans.into(),
            attended: attended.into(),
            seconds: Vec::new(),
        }
    }

    /// The same with a second text in each sequence, `seconds[i]` tokens from the start of sequence i; from its end on:
    /// there is none.
    #[must_use]
    pub fn with_seconds(mut self, seconds: Vec<usize>) -> Self {
        self.seconds = seconds;
        self
    }

    pub(crate) fn attended(&self) -> &Arc<[Span]> {
        &self.attended
    }

    /// 1 for each token of a second text, 0 for the others.
    pub(crate) fn types(&self) -> Vec<u32> {
        let mut types = vec![0; self.ids.len()];
        for (span, &second) in self.spans.iter().zip(&self.seconds) {
            types[span.start + second.min(span.len)..span.start + span.len].fill(1);
        }
        types
    }

    /// The position of each token in its sequence, of which `past` tokens came before; empty: none of any.
    pub(crate) fn positions(&self, past: &[usize]) -> Vec<usize> {
        let spans = self.attended.iter().enumerate();
        spans
            .flat_map(|(row, span)| {
                // A cache takes packed sequences alone, so that rows are spans.
                let past = past.get(row).copied().unwrap_or(0);
                past..past + span.len
            })
            .collect()
    }
}
