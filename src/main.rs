//! The `nanoclaw` binary: arguments in, exit code out. Errors are printed once, here.

use std::process::ExitCode;

use nanoclaw::cmd::{self, BrokenPipe, on_broken_pipe};

fn main() -> ExitCode {
    nanoclaw::memory::keep_small();
    // Until the command turns out to be one that goes on without a reader.
    on_broken_pipe(BrokenPipe::Ends);
    // Containers have another user and must be able to read what is mounted for them; the home as a
    // whole is closed to others, and what is secret in it has a mode of its own.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Before any database is opened: what a container left must not be able to hold us up.
    nanoclaw_session::untrusted::install_guards();
    match cmd::main(std::env::args_os(), &mut std::io::stdout()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(cmd::FAILURE)
        }
    }
}
