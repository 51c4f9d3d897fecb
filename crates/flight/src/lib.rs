//! The Arrow Flight and Flight SQL door: one port over one `Session::read`.
//!
//! Promise: no RPC that touches data or metadata is anonymous, ungoverned or unrecorded. Deliberately absent: planning,
//! policy and storage; this crate knows only sessions.
#![forbid(unsafe_code)]

mod commands;
mod flood;
mod identity;
mod server;
mod service;
mod status;
mod tickets;
mod wire;

pub use identity::{Authenticator, Claims, TokenRequest, issue_token, revoke_token};
pub use server::{ServeOptions, serve};
pub use service::Door;
pub use status::problem_of;
