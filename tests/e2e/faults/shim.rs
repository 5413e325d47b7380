use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tokio::process::Command;

use crate::common::Home;

/// The library that stands between a daemon and its disk; `disk.c` says what it can do.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/faults/disk.c");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = directory.join(format!("disk-{}.so", std::process::id()));
        let mut cc = std::process::Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
        let compiled = cc.arg(&made).arg(source).args(["-ldl", "-lpthread"]).status();
        assert!(compiled.expect("a C compiler").success(), "disk.c does not compile");
        let library = directory.join("disk.so");
        std::fs::rename(&made, &library).expect("a file that can be moved");
        library
    })
}

/// What fails; see `disk.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// `open`, `write` or `sync`.
    pub(super) kind: &'static str,
    /// `EIO`, `ENOSPC` or `KILL`.
    pub(super) error: &'static str,
    pub(super) nth: usize,
    /// All from that one on, until [`mend`].
    pub(super) lasting: bool,
}

fn preload(home: &Home, command: &mut Command) {
    command.env("LD_PRELOAD", library()).env("DISK_FILES", home.path("ibvwatch.db"));
}

pub(super) fn arm(home: &Home, command: &mut Command, fault: Fault) {
    preload(home, command);
    command.env("DISK_FAULT", format!("{}:{}:{}", fault.kind, fault.error, fault.nth));
    command.env("DISK_FAULTS", home.path("faults"));
    if fault.lasting {
        command.env("DISK_SWITCH", home.path("broken"));
    }
}

/// From here on what lasts fails.
pub(super) fn spoil(home: &Home) {
    std::fs::write(home.path("broken"), "").expect("a file that can be written");
}

pub(super) fn mend(home: &Home) {
    std::fs::remove_file(home.path("broken")).expect("a disk that is broken");
}

/// What failed so far: the kind, its number, and the file.
pub(super) fn faults(home: &Home) -> Vec<String> {
    let lines = std::fs::read_to_string(home.path("faults")).unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

/// Has every step on the database written down to that file.
pub(super) fn trace(home: &Home, command: &mut Command, name: &str) {
    preload(home, command);
    command.env("DISK_TRACE", home.path(name));
}
