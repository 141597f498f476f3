use burn::tensor::{Device, Int, Tensor, TensorData};

/// Keys and values of the tokens seen so far, in buffers of a fixed capacity that are written in place.
pub struct Cache {
    /// For each layer keys and values, (B, Hkv, capacity, D); `None` before the first forward pass.
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    capacity: usize,
    length: usize,
    /// Left padding of each row of the first input.
    pub(crate) left_padding: Vec<usize>,
}

impl Cache {
    /// `capacity`: the longest sequence, prompt and new tokens together.
    pub fn new(layers: usize, capacity: usize) -> Self {
        Cache {
            layers: (0..layers).map(|_| None).collect(),
            capacity,
            length: 0,
            left_padding: Vec::new(),
        }
    }

    /// Number of tokens of each row that are stored.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Nothing stored yet?
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Stores the keys and values of new tokens, (B, Hkv, T, D), and returns those of all tokens so far,
    /// (B, Hkv, past + T, D).
    pub(crate) fn append(
        &mut self,
        layer: usize,
        k: Tensor<4>,
        v: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let [b, h, t, d] = k.dims();
        let end = self.length + t;
        let (mut keys, mut values) = self.layers[layer].take().unwrap_or_else(|| {
            let empty = || Tensor::zeros([b, h, self.capacity, d], &k.device());
            (empty(), empty())
        });
        let place = [0..b, 0..h, self.length..end, 0..d];
        keys = keys.slice_assign(place.clone(), k);
        values = values.slice_assign(place, v);
        let seen = (
            keys.clone().narrow(2, 0, end),
            values.clone().narrow(2, 0, end),
        );
        self.layers[layer] = Some((keys, values));
        seen
    }

    /// To be called once after all layers have appended the same number of tokens.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Keeps only these rows, in this order.
    pub fn select(&mut self, rows: &[usize], device: &Device) {
        let index: Vec<i64> = rows.iter().map(|&r| r as i64).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows.len()]), device);
        for (k, v) in self.layers.iter_mut().flatten() {
            *k = k.clone().select(0, index.clone());
            *v = v.clone().select(0, index.clone());
        }
        if !self.left_padding.is_empty() {
            self.left_padding = rows.iter().map(|&r| self.left_padding[r]).collect();
        }
    }
}
