//! See `coracle_registry::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| coracle_registry::fuzz::check("uploads", input));
