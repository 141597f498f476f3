//! Learning rate against optimizer steps.

use crate::experiment::Schedule;

/// The learning rate of `step` (from 0) of `steps`, as transformers' `get_scheduler` gives it: a linear warmup
/// from 0 over `warmup` steps, then the schedule.
pub fn learning_rate(
    schedule: Schedule,
    base: f64,
    warmup: usize,
    steps: usize,
    step: usize,
) -> f64 {
    if step < warmup {
        return base * step as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
    match schedule {
        Schedule::Constant => base,
        Schedule::Linear => base * (1.0 - progress).max(0.0),
        Schedule::Cosine => base * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()).max(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values of transformers 5.23's `get_scheduler` for lr 1, 2 warmup steps of 6.
    #[test]
    fn agrees_with_transformers() {
        let table = |s| {
            (0..6)
                .map(|i| learning_rate(s, 1.0, 2, 6, i))
                .collect::<Vec<_>>()
        };
        assert_eq!(table(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(table(Schedule::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        for (got, want) in
            table(Schedule::Cosine)
                .into_iter()
                .zip([0.0, 0.5, 1.0, 0.853_553_4, 0.5, 0.146_446_6])
        {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    proptest! {
        /// No schedule leaves [0, base], whatever the numbers.
        #[test]
        fn stays_in_range(warmup in 0usize..50, steps in 1usize..200, step in 0usize..400) {
            for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
                let lr = learning_rate(schedule, 3e-4, warmup, steps, step);
                prop_assert!((0.0..=3e-4).contains(&lr), "{schedule:?} {lr}");
            }
        }
    }
}
