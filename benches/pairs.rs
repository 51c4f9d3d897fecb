//! Two ways of the same work, measured in turns: noise of the machine meets both.

use std::time::{Duration, Instant};

/// A comparison that `pairs` can run: its name and what it does.
pub(crate) type Comparison = (&'static str, fn());

/// Every comparison there is.
const COMPARISONS: &[Comparison] = &[];

/// Runs the comparisons whose name contains the filter.
pub(crate) fn main(filter: Option<&str>) {
    for (name, run) in COMPARISONS {
        if filter.is_none_or(|filter| name.contains(filter)) {
            println!("\n{name}");
            run();
        }
    }
}

/// What one comparison of several cases gave.
#[derive(Default)]
#[allow(dead_code, reason = "each area brings its comparisons")]
pub(crate) struct Ratios(Vec<f64>);

#[allow(dead_code, reason = "each area brings its comparisons")]
impl Ratios {
    /// Runs `ours` and `theirs` in turns, `rounds` times each after one warm-up, and prints the best of each and their
    /// ratio. The best is what the work costs when nothing disturbs it.
    pub(crate) fn case(&mut self, name: &str, rounds: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
        let mut best = [Duration::MAX; 2];
        for round in 0..=rounds {
            // Who goes first alternates, so that neither always finds warm caches.
            for side in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let begun = Instant::now();
                if side == 0 {
                    ours()
                } else {
                    theirs()
                }
                if round > 0 {
                    best[side] = best[side].min(begun.elapsed());
                }
            }
        }
        let ratio = best[0].as_secs_f64() / best[1].as_secs_f64();
        println!("  {name:<32} {:>12.3?} {:>12.3?} {ratio:>8.3}", best[0], best[1]);
        self.0.push(ratio);
    }

    /// Prints the geometric mean of the ratios.
    pub(crate) fn geomean(&self) {
        let mean = self.0.iter().map(|r| r.ln()).sum::<f64>() / self.0.len() as f64;
        println!("  {:<32} {:>34.3}", format!("geometric mean of {}", self.0.len()), mean.exp());
    }
}
