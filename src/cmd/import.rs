//! `nanoclaw import`: take over an existing NanoClaw v2 install.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use super::{FAILURE, JsonArgs};
use crate::home::Home;
use crate::import::{Mode, import};

pub fn run(home: &Home, dir: &Path, mode: Mode, json: &JsonArgs) -> Result<ExitCode> {
    let report = import(home, dir, mode, crate::time::now())?;
    json.print(&report, || print!("{}", report.to_text()))?;
    if report.refused() > 0 {
        eprintln!("nothing was imported: {} rows are refused, see above", report.refused());
        return Ok(ExitCode::from(FAILURE));
    }
    match mode {
        Mode::DryRun => eprintln!("nothing was changed: this is what an import would do"),
        Mode::Real => eprintln!("imported into {}; check it, then start it with `nanoclaw run`", home.root().display()),
    }
    Ok(ExitCode::SUCCESS)
}
