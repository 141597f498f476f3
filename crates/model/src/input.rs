use burn::tensor::{Device, Int, Tensor, TensorData};

/// A rectangular batch of token ids.
///
/// Rows shorter than `length` are padded: on the left for generation, so that every row ends at the same
/// position, on the right for training, where the causal mask hides the padding by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// `batch * length` ids, row by row.
    pub ids: Vec<u32>,
    pub batch: usize,
    pub length: usize,
    /// Number of padding tokens at the start of each row; empty: none anywhere.
    pub left_padding: Vec<usize>,
}

impl Input {
    /// Rows padded on the right with `pad` to the longest.
    pub fn right_padded(rows: &[&[u32]], pad: u32) -> Self {
        let length = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        let ids = rows
            .iter()
            .flat_map(|row| {
                row.iter()
                    .copied()
                    .chain(std::iter::repeat_n(pad, length - row.len()))
            })
            .collect();
        Input {
            ids,
            batch: rows.len(),
            length,
            left_padding: Vec::new(),
        }
    }

    /// Rows padded on the left with `pad` to the longest.
    pub fn left_padded(rows: &[&[u32]], pad: u32) -> Self {
        let length = rows.iter().map(|r| r.len()).max().unwrap_or(0);
        let left_padding: Vec<usize> = rows.iter().map(|r| length - r.len()).collect();
        let ids = rows
            .iter()
            .zip(&left_padding)
            .flat_map(|(row, n)| std::iter::repeat_n(pad, *n).chain(row.iter().copied()))
            .collect();
        Input {
            ids,
            batch: rows.len(),
            length,
            left_padding,
        }
    }

    /// (B * T)
    pub(crate) fn tensor(&self, device: &Device) -> Tensor<1, Int> {
        let ids: Vec<i64> = self.ids.iter().map(|&id| i64::from(id)).collect();
        Tensor::from_data(TensorData::new(ids, [self.ids.len()]), device)
    }

    /// Additive mask: 0 where the query may look, a large negative number where not. The query at column t of
    /// a row has the absolute position `past + t`. (B or 1, 1, T, past + T)
    pub(crate) fn mask(&self, past: usize, device: &Device) -> Tensor<4> {
        // Finite, so that a row that sees nothing (a padded query) gives no NaN.
        const HIDDEN: f32 = -1e30;
        let keys = past + self.length;
        let rows: &[usize] = if self.left_padding.is_empty() {
            &[0]
        } else {
            &self.left_padding
        };
        let mut values = vec![HIDDEN; rows.len() * self.length * keys];
        for (b, &pad) in rows.iter().enumerate() {
            for t in 0..self.length {
                let start = (b * self.length + t) * keys;
                let seen = past + t + 1;
                if pad < seen {
                    values[start + pad..start + seen].fill(0.0);
                }
            }
        }
        Tensor::from_data(
            TensorData::new(values, [rows.len(), 1, self.length, keys]),
            device,
        )
    }

    /// Positions as Hugging Face counts them: from the first real token of each row; padding has position 0.
    pub(crate) fn positions(&self, past: usize) -> Vec<usize> {
        let one = [0];
        let rows: &[usize] = if self.left_padding.is_empty() {
            &one
        } else {
            &self.left_padding
        };
        rows.iter()
            .flat_map(|&pad| (0..self.length).map(move |t| (past + t).saturating_sub(pad)))
            .collect()
    }
}
