use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use sharelora_kernels::attention::Span;

/// The token ids of a batch, its sequences laid end to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub ids: Vec<u32>,
    /// Where each sequence is; they follow one another without gaps.
    pub spans: Arc<[Span]>,
}

impl Input {
    /// Sequences end to end, without padding.
    pub fn packed(rows: &[&[u32]]) -> Self {
        Self::of(rows, |row, ids| ids.extend_from_slice(row))
    }

    /// Every sequence padded on the right with `pad` to the longest. The causal mask hides the padding; nothing reads
    /// what is computed for it.
    pub fn padded(rows: &[&[u32]], pad: u32) -> Self {
        let length = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        Self::of(rows, |row, ids| {
            ids.extend_from_slice(row);
            ids.extend(std::iter::repeat_n(pad, length - row.len()));
        })
    }

    fn of(rows: &[&[u32]], mut push: impl FnMut(&[u32], &mut Vec<u32>)) -> Self {
        let mut ids = Vec::new();
        let spans = rows
            .iter()
            .map(|row| {
                let start = ids.len();
                push(row, &mut ids);
                Span {
                    start,
                    len: ids.len() - start,
                }
            })
            .collect();
        Input { ids, spans }
    }

    /// (N)
    pub(crate) fn tensor(&self, device: &Device) -> Tensor<1, Int> {
        let ids: Vec<i64> = self.ids.iter().map(|&id| i64::from(id)).collect();
        Tensor::from_data(TensorData::new(ids, [self.ids.len()]), device)
    }

    /// The position of each token in its sequence, of which `past` tokens came before; empty: none of any.
    pub(crate) fn positions(&self, past: &[usize]) -> Vec<usize> {
        let spans = self.spans.iter().enumerate();
        spans
            .flat_map(|(row, span)| {
                let past = past.get(row).copied().unwrap_or(0);
                past..past + span.len
            })
            .collect()
    }
}
