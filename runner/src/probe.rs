//! `nanoclaw-runner probe`: does the runner run in this container, and are the mounts as they
//! must be? Asked by `nanoclaw doctor`; answers with one line of JSON.

use std::fs::{self, OpenOptions};
use std::io;

use nanoclaw_session::layout::SessionDir;
use serde::Serialize;

/// The file that proves that `out/` takes what we write; it is left for the host to see.
const PROBE_FILE: &str = "probe";

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub ok: bool,
    pub version: &'static str,
    pub uid: u32,
    pub gid: u32,
    pub workspace_readable: bool,
    /// Must be false in a container.
    pub workspace_writable: bool,
    pub out_writable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Tries the mounts.
pub fn probe(dir: &SessionDir) -> Report {
    let readable = fs::read_dir(dir.root()).map(drop);
    let out = touch(dir);
    let error = readable
        .as_ref()
        .err()
        .map(|e| format!("read {}: {e}", dir.root().display()))
        .or_else(|| out.as_ref().err().map(|e| format!("write {}: {e}", dir.out().display())));
    Report {
        ok: error.is_none(),
        version: env!("CARGO_PKG_VERSION"),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        workspace_readable: readable.is_ok(),
        workspace_writable: rustix::fs::access(dir.root(), rustix::fs::Access::WRITE_OK).is_ok(),
        out_writable: out.is_ok(),
        error,
    }
}

fn touch(dir: &SessionDir) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(dir.out().join(PROBE_FILE)).map(drop)
}
