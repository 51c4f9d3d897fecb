//! The one benchmark binary.
//!
//! ```text
//! cargo bench --bench custody [-- FILTER]          what one call costs (divan)
//! cargo bench --bench custody -- replay            a million recorded decisions, made again
//! cargo bench --bench custody -- pairs [FILTER]    two ways of the same work, in turns in one run; prints their ratio
//! cargo bench --bench custody -- asof FOLDER       joins named on standard input; `benches/asof/compare.py` drives it
//! cargo bench --bench custody -- ledger FOLDER [N] appending, opening, proving and verifying N entries on a real disk
//! cargo bench --bench custody -- audit FOLDER [N]  queries over `system.access.audit` of N reads
//! cargo bench --bench custody -- publish [ROWS]    a publish beside a plain Parquet write; memory; many versions and views
//! ```
//!
//! A figure without a peer or a floor beside it says more about the machine than about the code, so whatever is compared
//! runs in turns. Figures kept in `docs/` name machine, command and commit.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "benchmarks"
)]

mod asof;
mod audit;
mod ledger;
mod lineage;
mod overhead;
mod pairs;
mod policy;
mod publish;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.split_first() {
        Some((first, filter)) if first == "pairs" => pairs::main(filter.first().map(String::as_str)),
        Some((first, rest)) if first == "asof" => asof::main(rest),
        Some((first, rest)) if first == "audit" => audit::main(rest),
        Some((first, _)) if first == "replay" => policy::replay(),
        Some((first, rest)) if first == "ledger" => ledger::main(rest),
        Some((first, rest)) if first == "publish" => publish::main(rest),
        _ => divan::main(),
    }
}
