//! The `custody` command: composition root and nothing else.
//!
//! A command turns arguments into one call on the engine or the Flight door and renders the result. It has no data
//! path of its own. stdout is data, all talk goes to stderr.
#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod context;
mod demo;
mod outbox;
mod output;
mod render;
mod settings;

use arguments::Arguments;
use clap::Parser;
use std::process::ExitCode;

/// Plans of many operators recurse deeply; the parser's bounds are chosen for this stack.
const STACK_BYTES: usize = 16 << 20;

fn main() -> ExitCode {
    // Two TLS backends are compiled in by dependencies; one of them must be the process's own before any is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("custody: no runtime: {error}");
            return ExitCode::from(7);
        }
    };
    // The main thread's stack is the system's; the work goes to a worker's.
    let done = runtime.block_on(async { tokio::spawn(commands::run(arguments)).await });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("custody: this is a bug: {error}");
            ExitCode::from(101)
        }
    }
}
