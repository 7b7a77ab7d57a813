//! A container killed inside a transaction, and one that pretends it was.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

/// The files of a runner that had committed [`committed`] and was then killed in the middle of a
/// transaction that had reached the database file.
fn killed() -> (tempfile::TempDir, SessionDir) {
    let committed = committed();
    let (_alive, running) = session(&committed.iter().map(String::as_str).collect::<Vec<_>>());
    let db = Connection::open(running.outbound_db()).unwrap();
    db.execute_batch(
        "PRAGMA cache_size=1; BEGIN; UPDATE messages_out SET id = 'x' || id;
         INSERT INTO messages_out (id, seq, timestamp, kind, content)
           WITH RECURSIVE n(i) AS (SELECT 1001 UNION ALL SELECT i + 2 FROM n LIMIT 500)
           SELECT 'c' || i, i, '', 'chat', hex(zeroblob(500)) FROM n",
    )
    .unwrap();
    let (tmp, dir) = folder();
    fs::copy(running.outbound_db(), dir.outbound_db()).unwrap();
    fs::copy(journal_of(&running.outbound_db()), journal_of(&dir.outbound_db())).unwrap();
    (tmp, dir)
}

fn committed() -> Vec<String> {
    (0..300).map(|i| format!("m{i}")).collect()
}

fn recover(tmp: &tempfile::TempDir, dir: &SessionDir) -> Result<UntrustedDb, UntrustedError> {
    let (session, private) = (dir.clone(), tmp.path().join("private"));
    undisturbed(dir, move || recover_copy(&session, &private))
}

#[test]
fn what_was_committed_before_is_delivered_and_the_rest_is_not() {
    let (tmp, dir) = killed();
    assert_eq!(look(&dir, ids), Err(UntrustedError::Again));
    let recovered = recover(&tmp, &dir).unwrap();
    let private = tmp.path().join("private");
    assert_eq!(private.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for _ in 0..2 {
        assert_eq!(recovered.read(ids).unwrap(), committed());
    }
    drop(recovered);
    assert!(!private.exists());

    fs::remove_file(journal_of(&dir.outbound_db())).unwrap();
    assert_ne!(look(&dir, ids), Ok(committed()), "the transaction had reached the file");
}

#[test]
fn without_a_journal_nothing_is_copied() {
    let (tmp, dir) = session(&["a"]);
    let recovered = recover(&tmp, &dir).unwrap();
    assert!(!tmp.path().join("private").exists());
    assert_eq!(recovered.read(ids).unwrap(), ["a"]);
}

#[test]
fn what_a_crashed_host_left_in_the_private_folder_is_removed_first() {
    let (tmp, dir) = killed();
    fs::create_dir(tmp.path().join("private")).unwrap();
    fs::write(tmp.path().join("private/outbound.db"), "old").unwrap();
    assert_eq!(recover(&tmp, &dir).unwrap().read(ids).unwrap(), committed());
}

#[test]
fn a_private_folder_that_cannot_be_made_is_our_own_fault() {
    let (tmp, dir) = killed();
    let result = recover_copy(&dir, &tmp.path().join("missing/private"));
    assert!(matches!(result, Err(UntrustedError::Io(_))), "{result:?}");
}

/// Lets the journal name `victim` as its super-journal.
fn name_super_journal(journal: &Path, victim: &Path) {
    let name = victim.to_str().unwrap().as_bytes();
    let sum: u32 = name.iter().map(|&b| u32::from(b)).sum();
    let mut bytes = fs::read(journal).unwrap();
    // The page that SQLite keeps its locks in stands for "no page".
    bytes.extend((0x4000_0000_u32 / 4096 + 1).to_be_bytes());
    bytes.extend(name);
    bytes.extend((name.len() as u32).to_be_bytes());
    bytes.extend(sum.to_be_bytes());
    bytes.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    fs::write(journal, bytes).unwrap();
}

/// A journal that makes SQLite delete the file it names.
fn killed_with_super_journal() -> (tempfile::TempDir, SessionDir, PathBuf) {
    let (tmp, dir) = killed();
    let victim = tmp.path().join("victim");
    fs::write(&victim, "precious\0").unwrap();
    name_super_journal(&journal_of(&dir.outbound_db()), &victim);
    (tmp, dir, victim)
}

#[test]
fn a_super_journal_is_refused_and_the_file_it_names_survives() {
    let (tmp, dir, victim) = killed_with_super_journal();
    assert_eq!(look(&dir, ids), Err(UntrustedError::Again));
    assert!(matches!(recover(&tmp, &dir), Err(UntrustedError::Hostile(_))));
    assert!(victim.exists());
    assert!(!tmp.path().join("private").exists());
}

#[test]
fn even_a_super_journal_that_is_rolled_back_deletes_nothing_elsewhere() {
    let (tmp, dir, victim) = killed_with_super_journal();
    let out = out_folder(&dir).unwrap();
    let deadline = Instant::now() + HANG;
    connection::roll_back(&out.join(OUTBOUND_DB), &out, &deadline).ok();
    assert!(victim.exists());

    let (_tmp2, unguarded, victim2) = killed_with_super_journal();
    let db = Connection::open(unguarded.outbound_db()).unwrap();
    db.query_row("SELECT COUNT(*) FROM messages_out", [], |r| r.get::<_, i64>(0)).unwrap();
    assert!(!victim2.exists(), "the journal does what it was crafted for");
    drop(tmp);
}

#[test]
fn a_journal_that_is_no_plain_file_or_too_large_is_refused() {
    let (tmp, dir) = killed();
    let journal = journal_of(&dir.outbound_db());
    let elsewhere = tmp.path().join("journal");
    fs::rename(&journal, &elsewhere).unwrap();
    let refused = |what: &str| {
        let result = recover(&tmp, &dir);
        assert!(matches!(result, Err(UntrustedError::Hostile(_))), "{what}: {result:?}");
        assert!(!tmp.path().join("private").exists());
        fs::remove_file(&journal).unwrap();
    };
    symlink(&elsewhere, &journal).unwrap();
    refused("symlink");
    fifo(&journal);
    refused("FIFO");
    fs::copy(&elsewhere, &journal).unwrap();
    OpenOptions::new().write(true).open(&journal).unwrap().set_len(MAX_JOURNAL_BYTES + 1).unwrap();
    refused("large");
    fs::rename(&elsewhere, &journal).unwrap();
    assert_eq!(recover(&tmp, &dir).unwrap().read(ids).unwrap(), committed());
}

#[test]
fn a_damaged_journal_does_no_harm() {
    let (tmp, dir) = killed();
    let journal = journal_of(&dir.outbound_db());
    let bytes = fs::read(&journal).unwrap();
    for at in 0..28 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            fs::write(&journal, damaged).unwrap();
            if let Ok(recovered) = recover(&tmp, &dir) {
                recovered.read(ids).ok();
            }
        }
    }
}

/// POSIX locks go with the first descriptor that is closed, whichever it is.
#[test]
fn copying_takes_no_lock_away_from_another_look() {
    let (tmp, dir) = session(&["a"]);
    let path = out_folder(&dir).unwrap().join(OUTBOUND_DB);
    let deadline = Instant::now() + HANG;
    let look = connection::open_for_look(&path, &deadline).unwrap();
    fs::write(journal_of(&path), [0; 512]).unwrap();
    recover_copy(&dir, &tmp.path().join("private")).unwrap();
    let other = File::open(&path).unwrap();
    // SQLite's shared lock lies there.
    let lock = ofd_lock(&other, libc::F_OFD_GETLK, 0x4000_0002, 510);
    assert_eq!(i32::from(lock.l_type), libc::F_RDLCK);
    drop(look);
}
