//! A disk in memory that fails when told to, and a fake signer.
