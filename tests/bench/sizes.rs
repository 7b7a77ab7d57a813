//! The binaries: how large, and that the runner needs nothing of the image it is mounted into.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::{Report, Weight};

const MAX_MIB: f64 = 5.0;
/// Program header that names a loader.
const PT_INTERP: u32 = 3;

pub fn measure(report: &mut Report, bin: &Path) -> Result<()> {
    for name in ["nanoclaw", "nanoclaw-runner"] {
        let bytes = fs::metadata(bin.join(name))?.len();
        let mib = bytes as f64 / f64::from(1 << 20);
        report.at_most(&format!("size of {name}"), mib, "MiB", MAX_MIB, Weight::Fails, String::new());
    }
    let loaders = interpreters(&fs::read(bin.join("nanoclaw-runner"))?).context("the runner is no 64-bit ELF file")?;
    report.at_most("loaders the runner needs", loaders as f64, "", 0.0, Weight::Fails, "0 is static".into());
    Ok(())
}

/// How many `PT_INTERP` headers a little-endian 64-bit ELF file has.
fn interpreters(elf: &[u8]) -> Option<usize> {
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?)));
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let offset = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (u16_at(54)?, u16_at(56)?);
    let kind = |n: usize| Some(u32::from_le_bytes(elf.get(offset + n * size..)?.get(..4)?.try_into().ok()?));
    Some((0..count).filter(|n| kind(*n) == Some(PT_INTERP)).count())
}
