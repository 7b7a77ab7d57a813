//! Where log lines go: stderr, and `<home>/logs/nanoclaw.log` once the daemon has a home.
//!
//! Lines are the message first, then `key=value`, and one line per event. The file is capped:
//! at [`MAX_LOG_BYTES`] it is renamed to `nanoclaw.log.1`, replacing the one before. Only our own
//! crates are heard: a library's debug line could carry a header with a key in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use log::{LevelFilter, Log, Metadata, Record};

use crate::config::{LogFormat, LogSettings};

/// Size at which the log file starts anew. bytes
const MAX_LOG_BYTES: u64 = 4 * 1024 * 1024;

static LOGGER: OnceLock<Logger> = OnceLock::new();

#[derive(Debug)]
struct Logger {
    json: AtomicBool,
    shown: LevelFilter,
    file: Option<Mutex<LogFile>>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// Starts logging to stderr, up to the level `shown`, and to `file`. Only the first call counts.
pub fn start(settings: LogSettings, file: Option<&Path>, shown: LevelFilter) -> io::Result<()> {
    let file = file.map(LogFile::open).transpose()?.map(Mutex::new);
    let logger = LOGGER.get_or_init(|| Logger { json: AtomicBool::default(), shown, file });
    // A second call finds the first one's logger in place, which is what is wanted.
    let _already_set = log::set_logger(logger);
    set(settings);
    Ok(())
}

/// Changes what is logged, and how.
pub fn set(settings: LogSettings) {
    log::set_max_level(settings.level);
    if let Some(logger) = LOGGER.get() {
        logger.json.store(settings.format == LogFormat::Json, Ordering::Relaxed);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("nanoclaw") && metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = self.line(record);
        // There is nowhere left to report a failure to write the log.
        if record.level() <= self.shown {
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
        if let Some(file) = &self.file {
            if let Ok(mut file) = file.lock() {
                let _ = file.append(line.as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

impl Logger {
    fn line(&self, record: &Record<'_>) -> String {
        let time = nanoclaw_session::time::format_utc(crate::time::now());
        // One line per event, whatever an error text or a user's message contains.
        let message = record.args().to_string().replace(['\n', '\r'], " ");
        let level = record.level();
        if self.json.load(Ordering::Relaxed) {
            format!("{}\n", serde_json::json!({"time": time, "level": level.as_str(), "message": message}))
        } else {
            format!("{time} {level:<5} {message}\n")
        }
    }
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path: path.to_owned(), file, bytes })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > MAX_LOG_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            *self = LogFile::open(&self.path)?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_file_starts_anew_and_keeps_one_predecessor() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("nanoclaw.log");
        let mut file = LogFile::open(&path).unwrap();
        file.append(b"first\n").unwrap();
        file.bytes = MAX_LOG_BYTES + 1;
        file.append(b"second\n").unwrap();
        assert_eq!(fs::read_to_string(tmp.path().join("nanoclaw.log.1")).unwrap(), "first\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
    }
}
