//! Attachments of inbound messages, on their way into a session's inbox: confined, and never a
//! reason to lose the text.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Result;
use nanoclaw_session::content::Attachment;
use nanoclaw_session::layout::{SessionDir, confined_file_name, folder_name};

use crate::channel::InboundFile;

/// Largest attachment that is kept. bytes
const MAX_ATTACHMENT_BYTES: usize = 50 * 1024 * 1024;

/// Puts attachments into the session's inbox. One that cannot be kept is named without a path:
/// the text still arrives.
pub fn store_attachments(dir: &SessionDir, row_id: &str, files: &[InboundFile]) -> Vec<Attachment> {
    let mut kept: Vec<Attachment> = Vec::with_capacity(files.len());
    let folder = dir.inbox(row_id);
    for file in files {
        // A later version of the message may bring another file of the same name.
        let other_content = |n: &str| fs::read(folder.join(n)).is_ok_and(|there| there != file.bytes);
        let name = confined_file_name(&file.name, |n| kept.iter().any(|k| k.name == n) || other_content(n));
        let local_path = match store_attachment(dir, row_id, &name, &file.bytes) {
            Ok(()) => Some(format!("inbox/{}/{name}", folder_name(row_id))),
            Err(e) => {
                log::warn!("An attachment was not kept message={row_id} name={name:?} error={e:#}");
                None
            }
        };
        let kind = file.mime_type.as_deref().and_then(|m| m.split('/').next()).unwrap_or("file");
        kept.push(Attachment {
            name,
            kind: Some(if matches!(kind, "image" | "audio" | "video") { kind } else { "file" }.to_owned()),
            mime_type: file.mime_type.clone(),
            size: Some(file.bytes.len() as u64),
            local_path,
        });
    }
    kept
}

fn store_attachment(dir: &SessionDir, row_id: &str, name: &str, bytes: &[u8]) -> Result<()> {
    anyhow::ensure!(bytes.len() <= MAX_ATTACHMENT_BYTES, "larger than {MAX_ATTACHMENT_BYTES} bytes");
    let folder = dir.inbox(row_id);
    fs::create_dir_all(&folder)?;
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(folder.join(name))?;
    file.write_all(bytes)?;
    // The row that names it is durable; so must the file be.
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_confined_and_a_refused_one_is_still_named() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = SessionDir::new(tmp.path());
        let file =
            |name: &str, bytes: Vec<u8>| InboundFile { name: name.into(), mime_type: Some("image/png".into()), bytes };
        let kept = store_attachments(
            &dir,
            "m:main",
            &[file("../../x.png", vec![1]), file("x.png", vec![2]), file("big", vec![0; MAX_ATTACHMENT_BYTES + 1])],
        );
        let again = store_attachments(&dir, "m:main", &[file("x.png", vec![1]), file("x.png", vec![9])]);
        let names: Vec<_> = again.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["x.png", "x-3.png"], "the same file again, and another version's");
        let paths: Vec<_> = kept.iter().map(|a| a.local_path.as_deref()).collect();
        assert_eq!(paths, [Some("inbox/m:main/x.png"), Some("inbox/m:main/x-2.png"), None]);
        assert_eq!(fs::read(dir.inbox("m:main").join("x-2.png")).unwrap(), [2]);
        assert_eq!(kept[2].name, "big");
    }
}
