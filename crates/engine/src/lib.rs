#![forbid(unsafe_code)]

pub mod barrier;
