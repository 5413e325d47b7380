//! What the fuzzers in `fuzz/` run: each target takes any bytes and panics where a law is broken.
//!
//! Each reads what comes from outside and holds what is made of it against what must be true of
//! it, which is more than that nothing panics. The committed corpora are replayed by an ordinary
//! test of this module; `fuzz/README.md` says how to search for more.

mod configuration;
pub(crate) mod model;
mod session;

pub use crate::yoti::fuzz::Reader;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target; each has a binary and a corpus of that name in `fuzz/`.
pub const TARGETS: [Target; 5] = [
    ("session_file", crate::directory::fuzz::session_file),
    ("api_body", crate::yoti::fuzz::api_body),
    ("headers", crate::yoti::fuzz::headers),
    ("configuration", configuration::configuration),
    ("session_machine", session::session_machine),
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = target.unwrap_or_else(|| panic!("there is no target {name}"));
    target(data);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn everything_that_a_fuzzer_has_found_worth_keeping_holds() {
        for (name, target) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let files = std::fs::read_dir(&corpus).unwrap_or_else(|e| panic!("{corpus:?}: {e}"));
            let mut count = 0;
            for file in files {
                let path = file.unwrap().path();
                let data = std::fs::read(&path).unwrap();
                let run = std::panic::catch_unwind(|| target(&data));
                assert!(run.is_ok(), "{} breaks a law", path.display());
                count += 1;
            }
            assert!(count > 10, "{corpus:?} holds only {count} files");
        }
    }
}
