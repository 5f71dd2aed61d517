//! The fuzz target `usage`: see `targets.rs`.
#![no_main]
#![expect(unused, reason = "each target uses one function of the shared file")]

#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::usage(data));
