//! Two ways of the same work, measured in turns: noise of the machine meets both.

use crate::{lineage, overhead};
use std::time::{Duration, Instant};

/// A comparison that `pairs` can run: its name and what it does.
pub(crate) type Comparison = (&'static str, fn());

/// Every comparison there is.
const COMPARISONS: &[Comparison] = &[
    ("lineage: extraction beside plan and optimise", lineage::share),
    ("overhead: TPC-H, rows and cells hidden, beside the same by hand", overhead::governed),
    ("overhead: TPC-H, nothing hidden, beside the tables alone", overhead::unrestricted),
    ("overhead: one row by its key under a row set, beside the same by hand", overhead::lookup),
];

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
pub(crate) struct Ratios {
    ratios: Vec<f64>,
    sums: [Duration; 2],
}

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
        self.ratios.push(ratio);
        self.sums = [self.sums[0] + best[0], self.sums[1] + best[1]];
    }

    /// Prints the geometric mean of the ratios.
    pub(crate) fn geomean(&self) {
        if self.ratios.is_empty() {
            return;
        }
        let mean = self.ratios.iter().map(|r| r.ln()).sum::<f64>() / self.ratios.len() as f64;
        println!("  {:<32} {:>34.3}", format!("geometric mean of {}", self.ratios.len()), mean.exp());
    }

    /// Prints both means over all cases and their ratio.
    pub(crate) fn sums(&self) {
        if self.ratios.is_empty() {
            return;
        }
        let [ours, theirs] = self.sums.map(|sum| sum / self.ratios.len() as u32);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        println!("  {:<32} {ours:>12.3?} {theirs:>12.3?} {ratio:>8.3}", "mean");
    }
}
