//! What a process with a private key in its memory leaves behind on disk.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use super::Failure;

/// Sees to it that the kernel writes no image of this process's memory.
///
/// The limit is 1 byte and not 0, since a limit of 0 is not looked at where dumps are piped to a
/// program, while one of 1 forbids these as well (core(5)).
pub(super) fn forbid_core_dumps() -> Result<(), Failure> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    let most = Some(maximum.map_or(1, |maximum| maximum.min(1)));
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most })
        .map_err(|error| Failure::failed(format!("core dumps can't be turned off: {error}")))
}

/// Has every file that is made from here on be its owner's alone, whatever the mode that its
/// maker asks for.
pub(super) fn make_private_files() {
    // What it was before doesn't matter.
    let _ = umask(Mode::RWXG | Mode::RWXO);
}
