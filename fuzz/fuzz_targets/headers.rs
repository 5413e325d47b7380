#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ibvwatch::fuzzing::run("headers", data));
