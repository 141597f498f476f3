//! A frozen projection with low-rank updates (LoRA, Hu et al., arXiv 2106.09685, equation 3): y = x W^T + s (x A^T) B^T.
//!
//! Several projections of one input are one product: W is their weights one below the other, and an update names the
//! columns of y that it belongs to.

use tch::{Tensor, no_grad};

/// The update of the columns `offset ..` of y, as many as B has rows.
#[derive(Debug)]
pub struct Update<'a> {
    pub offset: i64,
    /// (r, in)
    pub a: &'a Tensor,
    /// (out, r)
    pub b: &'a Tensor,
    pub scale: f64,
    /// Factors of x by dropout, (N, in).
    pub mask: Option<&'a Tensor>,
}

impl Update<'_> {
    /// The columns of y, or of its gradient, that this update is of.
    fn columns(&self, y: &Tensor) -> Tensor {
        y.narrow(1, self.offset, self.b.size()[0])
    }

    fn dropped(&self, x: &Tensor) -> Tensor {
        self.mask.map_or_else(|| x.shallow_clone(), |mask| x * mask)
    }
}

/// `x` (N, in), `weight` (out, in) in any float type -> y (N, out), and x A^T of each update, (N, r), unscaled.
pub fn forward(x: &Tensor, weight: &Tensor, updates: &[Update]) -> (Tensor, Vec<Tensor>) {
    no_grad(|| {
        let y = x.mm(&weight.to_kind(x.kind()).tr());
        let lows = updates.iter().map(|update| {
            let low = narrow_product(&update.a.tr(), &update.dropped(x));
            let _ = update
                .columns(&y)
                .addmm_(&(&low * update.scale), &update.b.tr());
            low
        });
        let lows = lows.collect();
        (y, lows)
    })
}

/// `dy` (N, out) -> dx (N, in) where it is asked for, and (dA, dB) of each update.
///
/// `x` is needed where there are updates; `lows` is what [`forward`] gave.
pub fn backward(
    x: Option<&Tensor>,
    weight: &Tensor,
    updates: &[Update],
    lows: &[Tensor],
    dy: &Tensor,
    wants_dx: bool,
) -> (Option<Tensor>, Vec<(Tensor, Tensor)>) {
    no_grad(|| {
        let mut dx = wants_dx.then(|| dy.mm(&weight.to_kind(dy.kind())));
        let Some(x) = x else { return (dx, Vec::new()) };
        let pairs = updates.iter().zip(lows).map(|(update, low)| {
            let dy = update.columns(dy);
            let db = narrow_product(&(low * update.scale), &dy.tr());
            let mut dlow = narrow_product(update.b, &dy);
            let _ = dlow.g_mul_scalar_(update.scale);
            let da = dlow.tr().mm(&update.dropped(x));
            if let Some(dx) = &mut dx {
                let _ = match update.mask {
                    None => dx.addmm_(&dlow, update.a),
                    Some(mask) => dx.addcmul_(&dlow.mm(update.a), mask),
                };
            }
            (da, db.contiguous())
        });
        let pairs = pairs.collect();
        (dx, pairs)
    })
}

/// `wide` (M, K) times `narrow` (K, r), computed as the transpose of its transpose: BLAS takes a quarter to a half of the time
/// where the few columns are rows.
fn narrow_product(narrow: &Tensor, wide: &Tensor) -> Tensor {
    narrow.tr().mm(&wide.tr()).tr()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, gradients, random};
    use super::*;

    /// Two updates of different columns, one with dropout, against the plain formula and torch's derivative of it.
    #[test]
    fn follows_the_formula() {
        let (x, w, dy) = (
            random(&[9, 12], 1),
            random(&[20, 12], 2),
            random(&[9, 20], 3),
        );
        let (a, b) = (random(&[3, 12], 4), random(&[8, 3], 5));
        let (c, d) = (random(&[2, 12], 6), random(&[7, 2], 7));
        let mask = random(&[9, 12], 8).ge(0.0).to_kind(tch::Kind::Float) * 2.0;
        let plain = |v: &[Tensor]| {
            let y = v[0].mm(&w.tr());
            let first = v[0].mm(&v[1].tr()).mm(&v[2].tr()) * 0.5;
            let second = (&v[0] * &mask).mm(&v[3].tr()).mm(&v[4].tr()) * 2.0;
            y + first.constant_pad_nd([0, 12]) + second.constant_pad_nd([13, 0])
        };
        let (expected, g) = gradients(&[&x, &a, &b, &c, &d], &dy, plain);
        let updates = [
            Update {
                offset: 0,
                a: &a,
                b: &b,
                scale: 0.5,
                mask: None,
            },
            Update {
                offset: 13,
                a: &c,
                b: &d,
                scale: 2.0,
                mask: Some(&mask),
            },
        ];
        let (y, lows) = forward(&x, &w, &updates);
        assert_close(&y, &expected, 1e-5);
        let (dx, pairs) = backward(Some(&x), &w, &updates, &lows, &dy, true);
        assert_close(&dx.unwrap(), &g[0], 1e-5);
        for (i, (da, db)) in pairs.iter().enumerate() {
            assert_close(da, &g[1 + 2 * i], 1e-5);
            assert_close(db, &g[2 + 2 * i], 1e-5);
        }
        let (none, alone) = backward(Some(&x), &w, &updates, &lows, &dy, false);
        assert!(none.is_none());
        assert_close(&alone[0].0, &g[1], 1e-5);
    }

    /// A base that is kept in half the memory is widened for the product.
    #[test]
    fn takes_weights_of_another_type() {
        let (x, w) = (
            random(&[4, 6], 1),
            random(&[5, 6], 2).to_kind(tch::Kind::BFloat16),
        );
        let (y, _) = forward(&x, &w, &[]);
        assert_close(&y, &x.mm(&w.to_kind(tch::Kind::Float).tr()), 1e-6);
        let (dx, _) = backward(None, &w, &[], &[], &y, true);
        assert_close(&dx.unwrap(), &y.mm(&w.to_kind(tch::Kind::Float)), 1e-6);
    }
}
