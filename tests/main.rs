//! The command itself, end to end: each step of the demo is checked by the demo, and by its exit code here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests fail by panicking"
)]

mod audit;
mod clients;
mod demo;
mod faults;
mod import;
mod labels;
mod ledger;
mod lineage;
mod models;
mod openlineage;
mod own_project;
mod policy;
mod publishing;
mod quality;
mod readers;
mod refusals;
mod serving;
mod structure;
mod support;
mod training;
